"""Reading a cache: examples by number, shards by index, every byte checked before it is used.

A read of a block compares its bytes with the digest in the commit record, decodes them, and checks what they hold: that
they are this block of this shard of this header, dtypes, shapes, counts, and every range that a reader relies on
(content.py). Cost: sha256 runs at 0.5–2 GB/s, decoding at 0.3–0.6, the checks at 5–20. A basis is compared on opening,
and decoded once. Random access to single examples is not what this is for: a read decodes whole blocks (the last one is
kept); use the order of the blocks or the stream package.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kdcache.errors import CacheError, next_command
from kdcache.store.basis_file import decode_basis, read_basis
from kdcache.store.batch import Batch, concat
from kdcache.store.blocks import Place
from kdcache.store.consistent import check_header, check_manifest, check_table
from kdcache.store.files import Root
from kdcache.store.finished import read_copy_mark, read_finished
from kdcache.store.limits import most_of
from kdcache.store.local_copies import LocalCopies, default_folder
from kdcache.store.manifest import CommitRecord, Header, Manifest, parse
from kdcache.store.pinned import read_pinned
from kdcache.store.places import RECORD, names_of_shards
from kdcache.store.shard import decode_block, decode_shard, fetch_part, fetch_shard, part_fault, repair_command
from kdcache.store.shards import Shards, with_shards
from kdcache.store.table import Table, decode_table
from kdcache.store.tokenizer_files import read_tokenizer_file
from kdcache.targets.fields import empty_arrays

if TYPE_CHECKING:
    from kdcache.targets.basis import Basis

__all__ = ["Cache", "begun_header", "open_cache", "read_cache_json", "read_manifest"]

FRAMES = 64
"""Of how many shards the frame is kept, where the backend has one."""


def open_cache(
    path: str | os.PathLike[str],
    *,
    verify: bool = True,
    local_cache: str | os.PathLike[str] | None = None,
    local_cache_gb: float = 16,
) -> "Cache":
    """Open a finished cache for reading.

    Args:
        path: A folder, or any URL that fsspec reads.
        verify: Compare the sha256 of every block that is read.
        local_cache: A folder for copies of blocks; by default ~/.cache/kdcache/shards for a remote URL, and none
            for a local path.
        local_cache_gb: How many GB (10⁹ bytes) of copies are kept; 0 keeps none.

    Returns:
        The cache. No shard has been read yet.

    Raises:
        CacheError: The folder is no cache, the cache is unfinished, of a newer format or of a backend that nobody
            registered, or its basis is damaged.
    """
    root = Root(path)
    manifest = read_manifest(root)
    if local_cache is None and root.remote:
        local_cache = default_folder()
    copies = None if local_cache is None or local_cache_gb <= 0 else LocalCopies(local_cache, int(local_cache_gb * 1e9))
    cache = Cache(root, manifest, verify=verify, copies=copies)
    if verify and manifest.header.basis is not None:
        cache.basis_bytes()
    return cache


class Cache:
    """A finished cache; len() is its number of examples. `open_cache` makes one.

    Attributes:
        manifest: What the cache says of itself: header, corpus, shards.
    """

    def __init__(
        self, root: Root, manifest: Manifest, *, verify: bool = True, copies: LocalCopies | None = None
    ) -> None:
        self.root = root
        self.manifest = manifest
        self.verify = verify
        self._copies = copies
        self._last: tuple[tuple[int, int], Batch] | None = None
        self._frames: dict[int, bytes] = {}

    def __len__(self) -> int:
        return self.manifest.totals.examples

    @property
    def num_positions(self) -> int:
        return self.manifest.totals.positions

    @cached_property
    def shard_examples(self) -> np.ndarray:
        """Examples in each shard, int64 [shards]."""
        return self.manifest.shard_examples

    @cached_property
    def block_examples(self) -> np.ndarray:
        """Examples in each block of a shard, int64 [shards]; the last block of a shard may hold fewer."""
        return self.manifest.block_examples

    @cached_property
    def digest(self) -> str:
        """sha256 of the manifest, and so of every byte of the cache."""
        return self.manifest.digest()

    def read(self, start: int, stop: int) -> Batch:
        """Read some consecutive examples. Whole blocks are decoded for it.

        Args:
            start: The first example, from 0.
            stop: One past the last.

        Returns:
            A batch of them.

        Raises:
            IndexError: They are not all in the cache.
            DamagedShardError: The bytes of a shard are not what was committed.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"got examples {start} to {stop}, expected 0 <= start <= stop <= {len(self)}")
        header, parts = self.manifest.header, []
        ends = np.cumsum(self.shard_examples)
        first, last = np.searchsorted(ends, [start, max(start, stop - 1)], side="right")
        for shard in range(first, min(last + 1, len(ends)) if stop > start else first):
            offset, size = int(ends[shard] - self.shard_examples[shard]), int(self.block_examples[shard])
            low, high = max(start - offset, 0), min(stop - offset, int(self.shard_examples[shard]))
            for block in range(low // size, -(-high // size)):
                before = block * size
                parts.append(self._block(shard, block).slice(max(low - before, 0), min(high - before, size)))
        if not parts:
            empty = Batch(header.fields, empty_arrays(header.fields), header.records, header.num_classes)
            return replace(empty, load_basis=self._load_basis)
        return concat(parts)

    def read_shard(self, index: int) -> Batch:
        """Read all examples of one shard.

        Args:
            index: The number of the shard, from 0.

        Raises:
            DamagedShardError: Its bytes are not what was committed.
        """
        commit = self.manifest.shards[index]
        header = self.manifest.header

        if self._copies is not None:
            blocks = [self.read_block(index, block) for block in range(len(commit.blocks))]
        else:
            data = fetch_shard(self.root, header, commit, digest=self.verify)
            blocks = [*decode_shard(self.root, header, commit, data)]
        return replace(concat(blocks), load_basis=self._load_basis)

    def read_block(self, shard: int, block: int) -> Batch:
        """Read the examples of one block: some consecutive examples of a shard, the smallest thing that is read.

        Only its bytes are read, compared with their digest, decoded and checked.

        Args:
            shard: The number of the shard, from 0.
            block: The number of the block in it, from 0.

        Raises:
            DamagedShardError: Its bytes are not what was committed.
        """
        commit, header = self.manifest.shards[shard], self.manifest.header
        data = self._part(commit, commit.block(block))
        batch = decode_block(self.root, header, commit, block, data, self._frame(shard))
        return replace(batch, load_basis=self._load_basis)

    def _frame(self, shard: int) -> bytes | None:
        """What the blocks of a shard need besides; of the last shards it is kept."""
        commit = self.manifest.shards[shard]
        if commit.around is None:
            return None
        frame = self._frames.get(shard)
        if frame is None:
            frame = self._frames[shard] = self._part(commit, commit.around)
            for old in [*self._frames][:-FRAMES]:  # other threads may have dropped it
                self._frames.pop(old, None)
        return frame

    def _part(self, commit: CommitRecord, place: Place) -> bytes:
        """A range of a shard's file, compared with its digest."""

        def download() -> bytes:
            return fetch_part(self.root, commit, place, digest=self.verify)

        def wrong(data: bytes) -> object:
            return part_fault(place, data, digest=self.verify)

        return download() if self._copies is None else self._copies.fetch(place.sha256, place.bytes, download, wrong)

    @cached_property
    def basis(self) -> "Basis":
        """What the records' coefficients stand for, where they are calibrated. Raises CacheError for a damaged one."""
        return decode_basis(self.root, self.manifest.header, self.basis_bytes())

    def basis_bytes(self) -> bytes:
        """The file of the basis. Raises CacheError where it is missing or not the pinned one."""
        pin = self.manifest.header.basis
        assert pin is not None
        if self._copies is None:
            return read_basis(self.root, self.manifest.header)
        return self._copies.fetch(
            pin.sha256,
            pin.bytes,
            lambda: read_basis(self.root, self.manifest.header),
            lambda data: hashlib.sha256(data).hexdigest() != pin.sha256,
        )

    @property
    def _load_basis(self) -> "Callable[[], Basis] | None":
        return None if self.manifest.header.basis is None else lambda: self.basis

    def save_tokenizer(self, folder: str | os.PathLike[str]) -> None:
        """Copy the files of the cache's tokenizer.

        Args:
            folder: A local folder.

        Raises:
            CacheError: The cache has no tokenizer, or a file is damaged.
        """
        target = Root(folder)
        for name, data in self._tokenizer_files():
            target.write(name, data)

    def check_tokenizer(self) -> None:
        """Raises CacheError as `save_tokenizer` would, before a long run that ends with it."""
        for _ in self._tokenizer_files():
            pass

    def _tokenizer_files(self) -> Iterator[tuple[str, bytes]]:
        pin = self.manifest.header.tokenizer
        if pin is None:
            raise CacheError(f"{self.root.url} holds no tokenizer: give its folder to CacheWriter(tokenizer=…)")
        for name, sha256 in pin.files.items():
            yield name, read_tokenizer_file(self.root, name, sha256)

    def _block(self, shard: int, block: int) -> Batch:
        last = self._last  # other threads change it meanwhile
        if last is None or last[0] != (shard, block):
            last = self._last = ((shard, block), self.read_block(shard, block))
        return last[1]


def begun_header(root: Root) -> Header | None:
    """What a cache was begun with, finished or not; None for a folder that is no cache yet. Raises CacheError."""
    where = f"{root.url}/header.json"
    try:
        most = most_of("header.json")
        data = root.read("header.json", most, wrong=lambda data: not parse(Header, data, where))
        header = parse(Header, data, where, repair_command(root))
    except FileNotFoundError:
        return None
    check_header(header, where, repair_command(root))
    return header


def read_manifest(root: Root) -> Manifest:
    """cache.json of a finished cache, with its table of shards. Raises CacheError as `open_cache` does."""
    try:
        manifest = read_cache_json(root)
    except FileNotFoundError:
        if read_finished(root) is not None:
            raise CacheError(f"{root.url}/cache.json is missing; {repair_command(root)}") from None
        if (mark := read_copy_mark(root)) is not None:
            raise CacheError(
                f"{root.url} is a copy of the cache {mark.of[:12]}… that is not finished, expected a whole one: the "
                "push or fetch that makes it goes on when it is started again"
            ) from None
        if root.exists("header.json"):
            units = sum(RECORD.fullmatch(name) is not None for name in names_of_shards(root))
            raise CacheError(
                f"{root.url} is not finished: {units} units committed; to go on, with the settings file of its dump, "
                f"{next_command('dump-logits', 'dump.yaml')}"
            ) from None
        raise CacheError(
            f"{root.url} is not a cache: it has no cache.json; expected a folder made by kdcache dump-logits",
            missing_path=not root.is_there(),
        ) from None
    try:
        table = _read_table(root, manifest)
    except CacheError:
        again = read_cache_json(root)  # a dump that appends may have written both between the two reads
        if again.digest() == manifest.digest():
            raise
        manifest, table = again, _read_table(root, again)
    return with_shards(manifest, Shards(root, manifest.header, table))


def read_cache_json(root: Root) -> Manifest:
    """cache.json alone, without its table. Raises FileNotFoundError, and CacheError for a damaged one."""
    where, most = f"{root.url}/cache.json", most_of("cache.json")
    data = root.read("cache.json", most, wrong=lambda data: not parse(Manifest, data, where))
    manifest = parse(Manifest, data, where, repair_command(root))
    check_manifest(manifest, where, repair_command(root))
    return manifest


def _read_table(root: Root, manifest: Manifest) -> Table:
    """Raises CacheError where it is missing, damaged, or says something else than cache.json."""
    pin = manifest.table
    where, remedy = f"{root.url}/{pin.file}", repair_command(root)
    try:
        data = read_pinned(root, pin.file, pin.sha256, pin.bytes, remedy)
        if len(data) != pin.bytes:
            raise ValueError(f"got {len(data)} bytes, expected {pin.bytes}")
        table = decode_table(data, manifest.totals.shards)
    except ValueError as error:
        raise CacheError(f"{where} is damaged: {error}; {remedy}") from None
    check_table(manifest, table, where, remedy)
    return table
