"""Mixture: several caches to learn from, and how much of each.

One student reads all of them, with one loss: they have the same task and attention, tokens of one tokenizer, the same
classes, and the same arrays and record settings, which is what a batch is put together and decoded by. Factored records
have a basis for the whole cache, so they mix where that is the same file.

An epoch of a mixture is as many samples as all of its caches have examples. Each cache is gone through at a rate of its
own meanwhile: `passes` says how often.
"""

import math
from collections.abc import Sequence
from typing import Any

from kdcache.errors import CacheError, ConfigError
from kdcache.store.alike import check_alike, kinds_in_words
from kdcache.store.cache import Cache
from kdcache.store.manifest import difference
from kdcache.stream.fitting import check_sizes, lanes_for_all, usual_lanes
from kdcache.stream.mixing import LEAST_SHARE
from kdcache.stream.order import steps_per_epoch
from kdcache.tasks import task_of

__all__ = ["Mixture"]


class Mixture:
    """Caches with weights, for a Loader; len() is the number of their examples.

        mixture = kdcache.Mixture([(kdcache.open_cache("runs/web"), 3), (kdcache.open_cache("runs/code"), 1)])
        with kdcache.Loader(mixture, global_batch=64) as loader:

    Three of four samples of every global batch are from the first cache then, however large the two are. What else
    takes a cache, such as make_student and Collator, takes any of `caches`; loss_terms takes the mixture.

    Args:
        parts: Pairs of a finished cache and its weight, a number above 0.

    Attributes:
        caches: In the order given.
        weights: As given.
        shares: Of the samples that each cache gives; they sum to 1.

    Raises:
        ConfigError: There is no cache, one is named twice, or a weight is no number above 0 or next to nothing.
        CacheError: Two caches differ in what a batch, a student or a loss must be one of.
    """

    def __init__(self, parts: Sequence[tuple[Cache, float]]) -> None:
        self.caches = tuple(cache for cache, _ in parts)
        self.weights = tuple(float(weight) for _, weight in parts)
        if not parts:
            raise ConfigError("got no cache for a mixture, expected at least one")
        for cache, weight in zip(self.caches, self.weights, strict=True):
            if not 0 < weight < math.inf:
                raise ConfigError(f"got weight {weight:g} of {cache.root.url}, expected a finite number above 0")
        total = math.fsum(self.weights)
        self.shares = tuple(weight / total for weight in self.weights)
        for cache, weight, share in zip(self.caches, self.weights, self.shares, strict=True):
            if share < LEAST_SHARE:
                raise ConfigError(
                    f"got weight {weight:g} of {cache.root.url}, of {total:g} in all, expected at least "
                    f"{LEAST_SHARE:g} of the sum; raise it, or leave the cache out"
                )
        for number, cache in enumerate(self.caches):
            for other in self.caches[:number]:
                if other.digest == cache.digest:
                    raise ConfigError(
                        f"got {cache.root.url} and {other.root.url}, which is the same cache twice, expected different "
                        "ones; give it one weight, the sum of the two"
                    )
            if number:
                check_together(self.caches[0], cache)

    @classmethod
    def of(cls, caches: "Cache | Mixture") -> "Mixture":
        """A cache alone is a mixture of one."""
        return caches if isinstance(caches, Mixture) else cls([(caches, 1.0)])

    def __len__(self) -> int:
        return sum(map(len, self.caches))

    @property
    def alone(self) -> bool:
        """Whether there is one cache."""
        return len(self.caches) == 1

    @property
    def num_positions(self) -> int:
        return sum(cache.num_positions for cache in self.caches)

    @property
    def smallest(self) -> Cache:
        """The cache of the fewest examples."""
        return min(self.caches, key=len)

    def usual_lanes(self, global_batch: int, stretch: int) -> int:
        """How many lanes it has by default. stretch: blocks of a cache that a lane uses at one time."""
        if self.alone:
            return usual_lanes(global_batch, len(self), stretch)
        return lanes_for_all(global_batch, len(self.smallest), stretch * len(self.caches))

    def check_sizes(self, *, global_batch: int, micro_batch: int, lanes: int, world_size: int) -> None:
        """Raises ConfigError, with settings that fit, where a run cannot be shared out so."""
        smallest = self.smallest
        if not self.alone and len(smallest) < lanes:
            fitting = lanes_for_all(global_batch, len(smallest))
            raise ConfigError(
                f"got {lanes} lanes and {smallest.root.url} with {len(smallest)} examples, expected one at least for "
                f"each lane of a mixture; set stream.lanes to {fitting}"
            )
        sizes = {"global_batch": global_batch, "micro_batch": micro_batch, "lanes": lanes, "world_size": world_size}
        check_sizes(len(self), **sizes)

    def steps_per_epoch(self, global_batch: int, lanes: int) -> int:
        """Whole global batches of as many samples as all caches have examples. Raises ConfigError for none."""
        return steps_per_epoch(len(self), lanes=lanes, global_batch=global_batch)

    def passes(self, samples: float) -> tuple[float, ...]:
        """How often so many samples of a run go through each cache."""
        return tuple(samples * share / len(cache) for cache, share in zip(self.caches, self.shares, strict=True))

    @property
    def pins(self) -> dict[str, Any]:
        """What a checkpoint keeps to know them again, ready for JSON."""
        if self.alone:
            return {"cache_sha256": self.caches[0].digest}
        digests = (cache.digest for cache in self.caches)
        return {
            "caches": [
                {"sha256": digest, "weight": weight} for digest, weight in zip(digests, self.weights, strict=True)
            ]
        }


def check_together(first: Cache, other: Cache) -> None:
    """Raises CacheError, naming what differs, for caches that no batch, student or loss can have together."""
    ours, theirs = first.manifest.header, other.manifest.header
    names = f"{other.root.url} cannot be mixed with {first.root.url}"
    check_alike(first, other, names)
    task = task_of(ours.task)
    for key in () if task.generates else (task.length_setting, "overlong"):
        if (here := ours.task.get(key)) != (there := theirs.task.get(key)):
            raise CacheError(
                f"{names}: its task.{key} is {there}, expected {here}: a student cuts all texts alike; dump one again"
            )
    kinds, other_kinds = kinds_in_words(ours), kinds_in_words(theirs)
    if kinds != other_kinds:
        raise CacheError(f"{names}: it holds {other_kinds}, expected {kinds}: one loss reads the records of both")
    for kind, other_kind in zip(ours.records, theirs.records, strict=True):
        if found := difference(kind, other_kind):
            key, here, there = found
            raise CacheError(
                f"{names}: its record.{key} is {there}, expected {here}: their records are read as one, so dump one of "
                "them again with the settings of the other"
            )
    if (ours.basis and ours.basis.sha256) != (theirs.basis and theirs.basis.sha256):
        raise CacheError(
            f"{names}: its {other_kinds} records have a basis of their own, which each dump makes of its corpus, "
            "expected the same one: dump both corpora as one, or with another record.kind"
        )
    if ours.fields != theirs.fields:
        apart = {field.name for field in {*ours.fields} ^ {*theirs.fields}}
        raise CacheError(
            f"{names}: their arrays of {', '.join(sorted(apart)) or 'all kinds'} differ, expected the same dtypes and "
            "shapes in the same order: dump both with one tokenizer and one task"
        )
