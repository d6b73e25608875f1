"""What is worth a warning before a run: noisy records, a class without an example, rows in both caches."""

import hashlib
import math
from collections.abc import Iterator, Sequence

from kdcache.losses.term import Term
from kdcache.progress import say
from kdcache.store.cache import Cache
from kdcache.store.lineage import shared
from kdcache.store.table import hexadecimal
from kdcache.targets.noise import advice, worth_at
from kdcache.targets.record import TeacherTargets
from kdcache.tasks import task_of

__all__ = ["first_targets", "warn"]


def warn(terms: Sequence[Term], cache: Cache, held_out: Cache | None, *, alone: bool = True) -> None:
    """Say a line for each thing; nothing stops the run. alone: there is no other cache, so it needs no name."""
    of = "" if alone else f"{cache.root.url}: "
    for caution in (
        *_noise(terms, cache),
        *_empty_classes(cache),
        *_not_held_out(cache, held_out),
        *_another_teacher(cache, held_out),
        *_shared_rows(cache, held_out),
    ):
        say(f"warning: {of}{caution}")


def first_targets(cache: Cache) -> TeacherTargets:
    """Some 2,000 records of a cache with a teacher, to ask before a run what they can answer."""
    examples = math.ceil(2000 * len(cache) / cache.num_positions)
    return task_of(cache.manifest.header.task).row_targets(cache.read(0, min(examples, len(cache))).targets())


def _noise(terms: Sequence[Term], cache: Cache) -> Iterator[str]:
    """For each divergence term that these records answer badly."""
    if cache.manifest.header.distribution is None:
        return
    targets = first_targets(cache)
    for term in terms:
        temperature = term.teacher_temperature()
        if temperature is not None and term.weight:
            sampled = term.uses_sample(targets)
            found = advice(worth_at(targets, temperature), sampled=sampled)
            if found and (sampled or not targets.knows_every_class):
                yield found


def _empty_classes(cache: Cache) -> Iterator[str]:
    """A dump counts the labels of a classification into its summary."""
    names, notes = cache.manifest.header.class_names, cache.manifest.totals.notes
    if any(note.startswith("labelled ") for note in notes):
        empty = [name for name in names if f"labelled {name}" not in notes]
        if empty:
            yield (
                f"{cache.root.url} has no example of {', '.join(empty)}: a student can learn such a class from the "
                "teacher alone"
            )


def _not_held_out(cache: Cache, held_out: Cache | None) -> Iterator[str]:
    """The training cache itself, a copy of it, or what was made of the same cache or corpus."""
    if held_out is None:
        return
    ours, theirs = cache.manifest, held_out.manifest
    of_ours, of_theirs = ({*hexadecimal(one.shards.table["sha256"])} for one in (ours, theirs))
    if held_out.digest == cache.digest or not of_ours.isdisjoint(of_theirs):
        yield (
            f"eval.cache {held_out.root.url} holds shards of the training cache itself: its figures are of text that "
            "the student has seen"
        )
    elif how := shared(cache, held_out):
        yield f"eval.cache {held_out.root.url} {how} as the training cache: the student may have seen its text"


def _another_teacher(cache: Cache, held_out: Cache | None) -> Iterator[str]:
    if held_out is None or not cache.manifest.header.records or not held_out.manifest.header.records:
        return
    ours, theirs = cache.manifest.header.teacher, held_out.manifest.header.teacher
    if ours is None or theirs is None:
        return
    both = ours.weights_sha256 and theirs.weights_sha256
    if (ours.weights_sha256 != theirs.weights_sha256) if both else (ours.name != theirs.name):
        yield (
            f"eval.cache {held_out.root.url} holds another teacher's records ({theirs.name}) than the training cache "
            f"({ours.name}): its KL and agreement are with that one"
        )


def _shared_rows(cache: Cache, held_out: Cache | None) -> Iterator[str]:
    """Rows that both caches hold. Caches of language models are not read for it: the others are small."""
    if held_out is None or task_of(cache.manifest.header.task).generates:
        return
    ours = set(_digests(cache))
    shared = sum(digest in ours for digest in _digests(held_out))
    if shared:
        yield (
            f"{shared:,} of the {len(held_out):,} examples of eval.cache {held_out.root.url} are in the training cache "
            "too: its figures flatter; take duplicates out before splitting"
        )


def _digests(cache: Cache) -> Iterator[bytes]:
    for shard in range(len(cache.shard_examples)):
        batch = cache.read_shard(shard)
        for i in range(len(batch)):
            yield hashlib.sha256(batch.tokens(i).tobytes()).digest()
