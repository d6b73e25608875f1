"""Files that hang a reader or fill its memory: each is refused in a moment and in little memory, by a real process."""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store.forging import forge, forge_table
from store.making import write_cache

from kdcache.store.parquet_text import Page, page_head, read_page_head
from kdcache.store.zip_file import ZipWriter

READ = """
import resource, signal, sys, time
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
from kdcache import open_cache
from kdcache.errors import KdcacheError
from kdcache.store.verify import verify

def read(folder):
    cache = open_cache(folder)
    for index in range(len(cache.shard_examples)):
        cache.read_shard(index)

sound, *bombs = sys.argv[1:]
read(sound)
assert verify(sound) == []
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in bombs:
    for what in (read, verify):
        signal.alarm(20)  # a hang ends the process
        start = time.perf_counter()
        try:
            found = what(bomb)
            assert what is verify and found, f"{bomb} was read"
        except KdcacheError as error:
            assert "\\n" not in str(error)
        signal.alarm(0)
        assert time.perf_counter() - start < 10, bomb
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 400_000, f"{bomb} took {grown} kB"
print("refused", len(bombs))
"""


def shard_of(folder: Path) -> Path:
    return next(path for path in sorted(folder.glob("shards/*/*")) if path.suffix != ".json")


def fifo(name: str) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        path = shard_of(folder) if name == "shard" else folder / name
        path.unlink()
        os.mkfifo(path)

    return put


def device(folder: Path) -> None:
    path = shard_of(folder)
    path.unlink()
    path.symlink_to("/dev/zero")


def sparse(name: str, size: int) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        os.truncate(shard_of(folder) if name == "shard" else folder / name, size)

    return put


def sparse_and_forged(folder: Path) -> None:
    """The commit record says so too."""
    size = 8 << 30
    os.truncate(shard_of(folder), size)
    forge_table(folder, lambda columns: columns["bytes"].__setitem__(0, size))


def counts(folder: Path) -> None:
    """More tokens than any memory holds."""

    def change(values: dict[str, Any]) -> None:
        shard = values["shards"][0]
        shard.update(tokens=1 << 44, positions=1 << 43, entries=1 << 44)
        start, size, sha256, _, documents, *_ = shard["blocks"][0].split(" ")
        shard["blocks"] = [f"{start} {size} {sha256} {1 << 44} {documents} {1 << 43} {1 << 44}"]

    forge(folder, change)


def of_members(change: Callable[[dict[str, bytes]], dict[str, bytes]], method: int = zipfile.ZIP_STORED):
    def put(folder: Path) -> None:
        path = shard_of(folder)
        with zipfile.ZipFile(path) as archive:
            members = change({name: archive.read(name) for name in archive.namelist()})
        packed = io.BytesIO()
        writer = ZipWriter()
        for name, data in members.items():
            writer.add(name, data)
        with zipfile.ZipFile(packed, "w", method) as archive:
            for name, data in members.items():
                archive.writestr(zipfile.ZipInfo(name), data, method)
        path.write_bytes(writer.finish() if method == zipfile.ZIP_STORED else packed.getvalue())
        forge(folder)

    return put


def blosc_bomb(members: dict[str, bytes]) -> dict[str, bytes]:
    """A chunk of a few kB that decodes to 1 GB."""
    codec = numcodecs.Blosc(cname="zstd", clevel=9, shuffle=0)
    return members | {"0/ids/c/0": codec.encode(np.zeros(1 << 30, np.uint8))}


def reshaped(members: dict[str, bytes], shape: int, chunk: int) -> dict[str, bytes]:
    values = json.loads(members["0/ids/zarr.json"])
    values["shape"], values["chunk_grid"]["configuration"]["chunk_shape"] = [shape], [chunk]
    return members | {"0/ids/zarr.json": json.dumps(values, sort_keys=True, separators=(",", ":")).encode()}


def arrow_bomb(folder: Path) -> None:
    """The values of a column as 20 kB that decompress to 600 MB."""
    path = shard_of(folder)
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    table = table.set_column(table.schema.get_field_index("ids"), table.schema.field("ids"), _wide(table))
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 2))
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_batch(table.combine_chunks().to_batches()[0])
    path.write_bytes(sink.getvalue().to_pybytes())
    forge(folder)


def _wide(table: pa.Table) -> pa.Array:
    """Lists of lists, one list for each row, all the values in the first."""
    type_ = table.schema.field("ids").type.value_type.value_type
    values = pa.array(np.zeros(300_000_000, type_.to_pandas_dtype()))
    inner = pa.ListArray.from_arrays(pa.array([0, *[len(values)] * table.num_rows], pa.int32()), values)
    return pa.ListArray.from_arrays(pa.array(range(table.num_rows + 1), pa.int32()), inner)


def arrow_claim(folder: Path) -> None:
    """A buffer that says it has 2⁶² bytes."""
    path = shard_of(folder)
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<I", 0xFD2FB528)) - 8  # the first zstd frame, after its size
    data[at : at + 8] = struct.pack("<q", 1 << 62)
    path.write_bytes(data)
    forge(folder)


def of_page(change: Callable[[Page, bytes], tuple[int, bytes]], claim: int | None = None) -> Callable[[Path], None]:
    """The page of the ids of a Parquet shard: how many slots it says, and what it holds."""

    def put(folder: Path) -> None:
        path = shard_of(folder)
        data = path.read_bytes()
        group = pq.read_metadata(path).row_group(0)
        names = [group.column(i).path_in_schema for i in range(group.num_columns)]
        at = group.column(names.index("ids.list.element.list.element")).data_page_offset
        page = read_page_head(memoryview(data), at)
        start = at + page.length
        raw = pa.Codec("zstd").decompress(data[start : start + page.stored], page.decoded, asbytes=True)
        count, raw = change(page, raw)
        stored = pa.Codec("zstd", 9).compress(raw, asbytes=True)
        head = page_head(page.kind, claim or len(raw), len(stored), count, page.encoding)
        path.write_bytes(data[:at] + head + stored + data[start + page.stored :])
        forge(folder)

    return put


def parquet_footer(folder: Path) -> None:
    """A footer of 2 GB by its own length."""
    path = shard_of(folder)
    data = path.read_bytes()
    path.write_bytes(data[:-8] + struct.pack("<I4s", (1 << 31) - 1, b"PAR1"))
    forge(folder)


ALL: dict[str, Callable[[Path], None]] = {
    "fifo-shard": fifo("shard"),
    "fifo-manifest": fifo("cache.json"),
    "device": device,
    "sparse-shard": sparse("shard", 8 << 30),
    "sparse-shard-forged": sparse_and_forged,
    "sparse-manifest": sparse("cache.json", 6 << 30),
    "counts": counts,
}
OF: dict[str, dict[str, Callable[[Path], None]]] = {
    "zarr": {
        "blosc": of_members(blosc_bomb),
        "deflate": of_members(lambda members: members | {"0/ids/c/0": bytes(1 << 29)}, zipfile.ZIP_DEFLATED),
        "chunks": of_members(lambda members: reshaped(members, 10**8, 1)),
        "cells": of_members(lambda members: reshaped(members, 10**12, 10**12)),
        "members": of_members(lambda members: members | {f"{i:05}": b"" for i in range(60_000)}),
        "metadata": of_members(lambda members: members | {"0/ids/zarr.json": b" " * (64 << 20)}),
    },
    "arrow": {"bomb": arrow_bomb, "claim": arrow_claim},
    "parquet": {
        "bomb": of_page(lambda page, raw: (page.slots, bytes(1 << 30))),
        "slots": of_page(lambda page, raw: ((1 << 31) - 1, raw)),
        "levels": of_page(lambda page, raw: (page.slots, b"\xff" * 8 + raw[8:])),
        "claim": of_page(lambda page, raw: (page.slots, raw), claim=(1 << 31) - 1),
        "footer": parquet_footer,
    },
}


@pytest.mark.parametrize("backend", OF)
def test_bombs_do_not_go_off(tmp_path: Path, backend: str) -> None:
    write_cache(tmp_path / "sound", backend=backend)
    bombs = ALL | OF[backend]
    for name, arm in bombs.items():
        shutil.copytree(tmp_path / "sound", tmp_path / name)
        arm(tmp_path / name)
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", READ, *(str(tmp_path / name) for name in ("sound", *bombs))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == f"refused {len(bombs)}\n"
