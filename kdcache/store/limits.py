"""How large the files of a cache may be, compared before one is read or its arrays are made.

A cache from a stranger must not fill the memory. What bounds a file: of a shard and of a basis the size that is pinned
for it, of the others what no honest one comes near to. What bounds its arrays: they are as large as the pinned counts
make them, and compression makes of a file at most RATIO times its size, so that counts which a forger wrote cannot
claim more. Text and records compress 1.2 to 20 times; RATIO leaves room for shards of one token over and over.
"""

import contextlib
import math
import os
import resource
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from kdcache.errors import CacheError
from kdcache.store.backend import array_fields, array_shapes
from kdcache.targets.fields import Field, Level

__all__ = ["MOST", "array_bytes", "check_room", "most_of"]

MOST = {
    "cache.json": 64 << 20,  # the names and scores of 300,000 classes
    "shards.arrow": 256 << 20,  # 2,000,000 shards
    "header.json": 16 << 20,  # the names of 300,000 classes
    "shards/*/*.json": 64 << 20,  # a unit of 500,000 rows that are all left out
    "tokenizer/*": 256 << 20,  # the largest of 2026 take 35 MB
    "skipped.jsonl": 1 << 30,
}
"""Bytes of the files whose size nothing else pins."""
RATIO, FREE = 256, 256 << 20
"""Arrays may take FREE bytes whatever the size of their file, and RATIO times its size beyond that."""
CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def most_of(name: str) -> int:
    """How many bytes a file of this name may hold, of those that MOST lists."""
    folder, _, _ = name.partition("/")
    return MOST[name if folder == name else "tokenizer/*" if folder == "tokenizer" else "shards/*/*.json"]


def array_bytes(fields: Sequence[Field], sizes: Mapping[Level, int]) -> int:
    """The memory of the arrays of a shard whose levels have so many elements."""
    shapes = array_shapes(fields, sizes)
    return sum(math.prod(shapes[field.name]) * np.dtype(field.dtype).itemsize for field in array_fields(fields))


def check_room(where: str, fields: Sequence[Field], sizes: Mapping[Level, int], file_bytes: int) -> None:
    """Whether a file's arrays may be made at all.

    Raises:
        CacheError: The counts are not those of a file of this size, or the machine has less memory than it takes.
    """
    needed = array_bytes(fields, sizes)
    if needed > FREE + RATIO * file_bytes or file_bytes > FREE + RATIO * needed:
        raise CacheError(
            f"{where}: got {needed} bytes of arrays in a file of {file_bytes}, expected at most {RATIO} times"
        )
    if needed + file_bytes > memory():
        raise CacheError(
            f"{where}: got {(needed + file_bytes) / 1e9:.3g} GB to read at once, expected at most the "
            f"{memory() / 1e9:.3g} GB of memory that this process may take: read it on a larger machine"
        )


@cache
def memory() -> int:
    """How many bytes this process may take: the machine's, or what its container or its shell allows."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUPS:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(path).read_text()))
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    return min([*found, *([allowed] if allowed != resource.RLIM_INFINITY else [])])
