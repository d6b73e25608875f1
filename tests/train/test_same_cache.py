"""Ranks that open a cache at different moments train on one cache, or not at all."""

from dataclasses import dataclass
from typing import Any

import pytest

from kdcache.errors import TrainError
from kdcache.launcher import World
from kdcache.train.distributed import check_same_caches


@dataclass(frozen=True)
class Ranks(World):
    """What the other ranks say is given."""

    said: tuple[Any, ...] = ()

    def all(self, value: Any) -> list[Any]:
        return [*self.said]


def test_a_cache_that_is_replaced_while_ranks_start() -> None:
    check_same_caches(World(), ["a" * 64])
    check_same_caches(Ranks(size=2, said=(["a" * 64], ["a" * 64])), ["a" * 64])
    with pytest.raises(TrainError, match=r"rank 0 has opened the cache aaaaaaaaaaaa… and rank 2 bbbbbbbbbbbb…"):
        check_same_caches(Ranks(rank=1, size=3, said=(["a" * 64], ["a" * 64], ["b" * 64])), ["a" * 64])
