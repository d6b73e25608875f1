"""Everybody's reader of the payload: written once, then read in a shuffled order, 64 examples at a time.

    python -m tests.bench.readers NAME FOLDER         reads in a process of its own and prints figures as JSON

A reader imports its package, writes blobs, and gives batches of one epoch after the other from a place in the first.
kdcache's batches are concatenated arrays, ready to be decoded on a device; the others' are lists of examples taken
apart into views, which is less work and to their advantage. One process, no worker processes, so that all CPU time
counts; MDS and kdcache read ahead in threads.
"""

import importlib.util
import json
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.payload import unpack

__all__ = ["READERS", "Reader", "drop_from_memory", "measure"]

BATCH = 64
Counted = tuple[int, int]
"""Examples and decoded bytes of a batch."""


@dataclass(frozen=True)
class Reader:
    """One way to read.

    Attributes:
        load: Imports what it needs; ImportError where it is not there.
        write: Blobs into a folder; None for kdcache's own caches.
        read: (folder, schema, examples to skip) to batches, epoch after epoch without an end.
        says: What a reader of the table should know.
    """

    load: Callable[[], Any]
    write: Callable[[Path, Iterator[bytes]], None] | None
    read: Callable[[Path, Any, int], Iterator[Counted]]
    says: str = ""


def measure(name: str, folder: Path) -> dict[str, float]:
    """Starts, the first epoch (whose files may not be in memory), later epochs, and going on from the middle."""
    reader = READERS[name]
    reader.load()
    known = json.loads((folder / "payload.json").read_text())
    epoch = known["examples"] // BATCH * BATCH * 15 // 16  # what every reader has in an epoch
    found: dict[str, float] = {}
    started, clock = time.process_time(), time.perf_counter()
    batches = reader.read(folder, known["schema"], 0)
    first = next(batches)
    found["start"] = time.process_time() - started
    size = _through(chain([first], batches), epoch)
    found |= {"cold_cpu": time.process_time() - started, "cold_clock": time.perf_counter() - clock, "cold_bytes": size}
    started = time.process_time()
    size = _through(batches, 2 * epoch)
    found |= {"warm_cpu": time.process_time() - started, "warm_bytes": size, "warm_examples": 2 * epoch}
    del batches
    started = time.process_time()
    batches = reader.read(folder, known["schema"], epoch // 2 // BATCH * BATCH)
    next(batches)
    found["resume"] = time.process_time() - started
    return found


def _through(batches: Iterator[Counted], examples: int) -> int:
    seen = size = 0
    while seen < examples:
        count, read = next(batches)
        seen, size = seen + count, size + read
    return size


def drop_from_memory(folder: Path) -> None:
    """Ask the system to forget the pages of every file."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _counted(schema: Any, blobs: Iterator[bytes]) -> Iterator[Counted]:
    while group := [unpack(schema, blob) for blob in islice(blobs, BATCH)]:
        yield len(group), sum(array.nbytes for arrays in group for array in arrays)


# kdcache


def _load_kdcache() -> None:
    import numcodecs.blosc
    import pyarrow.ipc
    import torch
    import zarr

    import kdcache

    _ = numcodecs.blosc, pyarrow.ipc, torch, zarr, kdcache.Loader, kdcache.open_cache


def _read_kdcache(folder: Path, schema: Any, skip: int) -> Iterator[Counted]:
    import kdcache

    cache = kdcache.open_cache(folder)
    with _loader(cache, skip) as loader:
        for (batch,) in loader:
            yield len(batch), batch.nbytes


def _loader(cache: Any, skip: int) -> Any:
    """As of a cache that is large beside the blocks in use, each of which is read once in an epoch: six blocks or more
    for a lane, and the least memory that holds a block of each lane. With the usual 64 lanes most blocks of so small a
    cache are in use at any time, and are not read again in the next epoch.
    """
    from kdcache import Loader
    from kdcache.stream.memory import decoded_bytes

    blocks = int(np.sum(-(-cache.shard_examples // cache.block_examples)))
    block = decoded_bytes(cache.manifest.header.fields, cache.manifest.totals) / blocks
    lanes = max(n for n in (1, 2, 4, 8, 16, 32, 64) if 6 * n <= max(blocks, 6))
    for times in np.arange(1, 16, 0.25):
        loader = Loader(
            cache, global_batch=BATCH, lanes=lanes, threads=1, memory_gb=times * lanes * block / 1e9, samples_seen=skip
        )
        if loader._readings[0].offsets is None and not loader._readings[0].keep:
            return loader
        loader.close()
    raise AssertionError("got no amount of memory that holds a block of each lane, and not the cache")


def _plain_zarr(folder: Path, schema: Any, skip: int) -> Iterator[Counted]:
    """The codec alone: every chunk of every member, in the order of the files."""
    import zipfile

    from numcodecs import blosc

    sizes = json.loads((folder / "payload.json").read_text())["shards"]
    while True:
        for path, examples in zip(sorted(folder.rglob("*.zip")), sizes, strict=True):
            with zipfile.ZipFile(path) as archive:
                chunks = [archive.read(name) for name in archive.namelist() if not name.endswith(".json")]
            yield examples, sum(len(blosc.decompress(chunk)) for chunk in chunks)


def _plain_arrow(folder: Path, schema: Any, skip: int) -> Iterator[Counted]:
    import pyarrow

    pyarrow.set_cpu_count(1)
    while True:
        for path in sorted(folder.rglob("*.arrow")):
            with pyarrow.memory_map(str(path)) as source:
                file = pyarrow.ipc.open_file(source)
                for index in range(file.num_record_batches):
                    batch = file.get_batch(index)
                    yield batch.num_rows, batch.nbytes


def _plain_parquet(folder: Path, schema: Any, skip: int) -> Iterator[Counted]:
    import pyarrow.parquet as pq

    while True:
        for path in sorted(folder.rglob("*.parquet")):
            file = pq.ParquetFile(path)
            for index in range(file.num_row_groups):
                group = file.read_row_group(index, use_threads=False)
                yield group.num_rows, group.nbytes


# others


def _write_memmap(folder: Path, blobs: Iterator[bytes]) -> None:
    offsets = [0]
    with (folder / "data.bin").open("wb") as file:
        for blob in blobs:
            offsets.append(offsets[-1] + file.write(blob))
    np.save(folder / "offsets.npy", np.array(offsets))


def _read_memmap(folder: Path, schema: Any, skip: int) -> Iterator[Counted]:
    data, offsets = np.memmap(folder / "data.bin", mode="r"), np.load(folder / "offsets.npy")

    def blobs() -> Iterator[bytes]:
        epoch, left = 0, skip
        while True:
            for index in np.random.default_rng(epoch).permutation(len(offsets) - 1)[left:].tolist():
                yield bytes(data[offsets[index] : offsets[index + 1]])
            epoch, left = epoch + 1, 0

    return _counted(schema, blobs())


def _load_streaming() -> None:
    """It imports torchvision, which it needs for images alone and whose wheel brings CUDA: stand-ins, for a while."""
    import transformers.utils

    transformers.utils.is_torchvision_available()  # which is remembered
    names = ["torchvision", *(f"torchvision.{name}" for name in ("datasets", "transforms", "transforms.functional"))]
    if importlib.util.find_spec("torchvision") is None:
        for name in names:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__spec__ = ModuleSpec(name, None)
        vars(sys.modules["torchvision.datasets"]).update(VisionDataset=object, CIFAR10=object)
        vars(sys.modules["torchvision.transforms.functional"]).update(to_tensor=None)
    else:
        names = []
    try:
        import streaming  # noqa: F401
    finally:
        for name in names:
            del sys.modules[name]


def _write_mds(compression: str | None) -> Callable[[Path, Iterator[bytes]], None]:
    def write(folder: Path, blobs: Iterator[bytes]) -> None:
        from streaming import MDSWriter

        with MDSWriter(
            out=str(folder), columns={"blob": "bytes"}, compression=compression, size_limit="16mb"
        ) as writer:
            for blob in blobs:
                writer.write({"blob": blob})

    return write


def _read_mds(compressed: bool) -> Callable[[Path, Any, int], Iterator[Counted]]:
    def read(folder: Path, schema: Any, skip: int) -> Iterator[Counted]:
        import tempfile

        from streaming import StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        with tempfile.TemporaryDirectory(dir=folder.parent) as unpacked:
            where = {"remote": str(folder), "local": unpacked} if compressed else {"local": str(folder)}
            dataset = StreamingDataset(**where, shuffle=True, batch_size=BATCH)
            if skip:
                dataset.load_state_dict(dataset.state_dict(skip, from_beginning=True))
            blobs = (row["blob"] for _ in iter(int, 1) for row in dataset)
            yield from _counted(schema, blobs)

    return read


def _write_litdata(folder: Path, blobs: Iterator[bytes]) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder), chunk_bytes=16 << 20, compression="zstd")
    for index, blob in enumerate(blobs):
        writer[index] = blob
    writer.done()
    writer.merge()


def _read_litdata(folder: Path, schema: Any, skip: int) -> Iterator[Counted]:
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(str(folder), shuffle=True, drop_last=False)
    loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=0, collate_fn=list)
    if skip:
        place = {"dataset": dataset.state_dict(skip, num_workers=0, batch_size=BATCH), "current_epoch": 1}
        loader.load_state_dict({**place, "num_samples_yielded": skip, "latest_worker_idx": 0})
    for group in (group for _ in iter(int, 1) for group in loader):
        yield from _counted(schema, iter(group))


def _write_webdataset(folder: Path, blobs: Iterator[bytes]) -> None:
    import webdataset

    with webdataset.ShardWriter(str(folder / "%06d.tar"), maxsize=16e6, verbose=0) as writer:
        for index, blob in enumerate(blobs):
            writer.write({"__key__": f"{index:09d}", "blob": blob})


def _read_webdataset(folder: Path, schema: Any, skip: int) -> Iterator[Counted]:
    import webdataset

    urls = sorted(map(str, folder.glob("*.tar")))
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False).shuffle(1000)
    blobs = (row["blob"] for _ in iter(int, 1) for row in dataset)
    return _counted(schema, islice(blobs, skip, None))


def _write_datasets(folder: Path, blobs: Iterator[bytes]) -> None:
    from datasets import Dataset, Features, Value

    made = Dataset.from_dict({"blob": list(blobs)}, features=Features({"blob": Value("binary")}))
    made.save_to_disk(str(folder / "data"), max_shard_size="16MB")


def _read_datasets(folder: Path, schema: Any, skip: int) -> Iterator[Counted]:
    from datasets import load_from_disk

    dataset = load_from_disk(str(folder / "data"))

    def blobs() -> Iterator[bytes]:
        epoch, left = 0, skip
        while True:
            order = np.random.default_rng(epoch).permutation(len(dataset))[left:]
            yield from chain.from_iterable(group["blob"] for group in dataset.select(order).iter(batch_size=BATCH))
            epoch, left = epoch + 1, 0

    return _counted(schema, blobs())


def _importing(name: str) -> Callable[[], Any]:
    return lambda: __import__(name)


READERS = {
    "kdcache, Zarr": Reader(_load_kdcache, None, _read_kdcache, "every byte checked"),
    "kdcache, Arrow": Reader(_load_kdcache, None, _read_kdcache, "every byte checked"),
    "kdcache, Parquet": Reader(_load_kdcache, None, _read_kdcache, "every byte checked"),
    "plain decoding, Zarr": Reader(_load_kdcache, None, _plain_zarr, "the codec alone, in the order of the files"),
    "plain decoding, Arrow": Reader(_load_kdcache, None, _plain_arrow, "pyarrow alone, in the order of the files"),
    "plain decoding, Parquet": Reader(_load_kdcache, None, _plain_parquet, "pyarrow alone, in the order of the files"),
    "litdata, zstd": Reader(_importing("litdata"), _write_litdata, _read_litdata),
    "mosaicml-streaming, zstd": Reader(_load_streaming, _write_mds("zstd"), _read_mds(True), "unpacked to disk first"),
    "mosaicml-streaming": Reader(_load_streaming, _write_mds(None), _read_mds(False), "no compression"),
    "webdataset": Reader(_importing("webdataset"), _write_webdataset, _read_webdataset, "no compression"),
    "HF datasets": Reader(_importing("datasets"), _write_datasets, _read_datasets, "no compression"),
    "numpy memmap": Reader(lambda: None, _write_memmap, _read_memmap, "no compression"),
}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))), flush=True)
    os._exit(0)  # threads that still read ahead are of no interest
