"""What is worth a warning before a run: noisy records, a class without an example, rows in both caches."""

import hashlib
import math
from collections.abc import Iterator

from kdcache.config import TrainConfig
from kdcache.progress import say
from kdcache.store.cache import Cache
from kdcache.targets.noise import advice, worth_at
from kdcache.targets.record import TeacherTargets

__all__ = ["first_targets", "warn"]


def warn(config: TrainConfig, cache: Cache, held_out: Cache | None) -> None:
    """Say a line for each thing; nothing stops the run."""
    for caution in (*_noise(config, cache), *_empty_classes(cache), *_shared_rows(cache, held_out)):
        say(f"warning: {caution}")


def first_targets(cache: Cache) -> TeacherTargets:
    """Some 2,000 records of a cache with a teacher, to ask before a run what they can answer."""
    examples = math.ceil(2000 * len(cache) / cache.num_positions)
    return cache.read(0, min(examples, len(cache))).targets()


def _noise(config: TrainConfig, cache: Cache) -> Iterator[str]:
    """For each divergence term that these records answer badly."""
    if cache.manifest.header.record is None:
        return
    targets = first_targets(cache)
    for term in config.terms:
        if term.name == "divergence" and term.softmax_temperature is not None and term.weight:
            sampled = targets.tail == "sampled" and term.kind == "forward_kl"
            found = advice(worth_at(targets, term.softmax_temperature), sampled=sampled)
            if found:
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


def _shared_rows(cache: Cache, held_out: Cache | None) -> Iterator[str]:
    """Of a classification, whose caches are small: both are read once."""
    if held_out is None or cache.manifest.header.id2label is None:
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
