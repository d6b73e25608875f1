"""Where the shards of a cache lie: in folders of 500 units, so that none has more than 1,000 entries.

    shards/000/000123.zarr.zip   the shard of unit 123
    shards/000/000123.json       its commit record
    shards/200/100000.json       that of unit 100,000

A store is asked for one page of names a folder then, and no tool of a disk lists 200,000 names at once.
"""

import re

from kdcache.store.backend import backend
from kdcache.store.files import Root
from kdcache.store.manifest import Header

__all__ = [
    "RECORD",
    "UNITS_PER_FOLDER",
    "has_shards",
    "names_of_shards",
    "own_folders",
    "record_name",
    "shard_folders",
    "shard_name",
    "sweep_leftovers",
    "unit_of",
]

UNITS_PER_FOLDER = 500
SHARDS = "shards"
RECORD = re.compile(r"shards/\d{3,}/\d{6,}\.json")
"""How the name of a commit record looks."""


def shard_name(header: Header, unit: int) -> str:
    """The file of a shard, by its name in the cache."""
    return f"{_place(unit)}{backend(header.backend).suffix}"


def record_name(unit: int) -> str:
    """The file of its commit record."""
    return f"{_place(unit)}.json"


def _place(unit: int) -> str:
    return f"{SHARDS}/{unit // UNITS_PER_FOLDER:03d}/{unit:06d}"


def unit_of(header: Header, name: str) -> int | None:
    """The unit whose shard or commit record has this name; None where it is the name of neither."""
    stem = name.rpartition("/")[2].partition(".")[0]
    unit = int(stem) if stem.isascii() and stem.isdecimal() else -1
    return unit if unit >= 0 and name in (shard_name(header, unit), record_name(unit)) else None


def shard_folders(root: Root) -> list[str]:
    """The folders that shards lie in, and the one above them, by their names in the cache."""
    return [SHARDS, *(f"{SHARDS}/{name}" for name in root.folders(SHARDS))]


def own_folders(root: Root) -> list[str]:
    """Every folder in which a cache has files, by its name in the cache; the cache itself is ""."""
    return ["", *shard_folders(root), "tokenizer"]


def sweep_leftovers(root: Root) -> None:
    """Delete what killed writers left behind."""
    for sub in own_folders(root):
        root.sweep(sub)


def names_of_shards(root: Root) -> list[str]:
    """The names in the cache of everything in these folders, without unfinished writes."""
    return [f"{sub}/{name}" for sub in shard_folders(root) for name in root.list(sub)]


def has_shards(root: Root) -> bool:
    """Whether anything lies in them."""
    return any(root.list(sub) for sub in reversed(shard_folders(root)))
