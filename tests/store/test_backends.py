"""The promises of a backend, on all: what is read is what was written, and bytes are a function of the arrays."""

import io
import json
import subprocess
import sys
import zipfile
from itertools import groupby

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from store.making import BACKENDS, STAMP, same_arrays, shards, there_and_back

from kdcache.store import parquet_backend, zarr_backend
from kdcache.store.arrow_backend import from_arrow, to_arrow
from kdcache.store.backend import array_fields, backend, check_arrays
from kdcache.store.blocks import cut, examples_of_a_block
from kdcache.store.parquet_levels import counts_of, levels_of_counts, room_of
from kdcache.targets.dense import Dense
from kdcache.targets.fields import Field, empty_arrays
from kdcache.targets.kind import RecordKind
from kdcache.targets.sampled import Sampled

RAGGED = (
    Field("tokens", "token", "uint16"),
    Field("curve", "position", "float16", (3,)),
    Field("ids", "entry", "uint32"),
)


@pytest.mark.parametrize("name", BACKENDS)
@given(shard=shards(), size=st.integers(1, 6))
def test_round_trip(name: str, shard, size: int) -> None:
    fields, arrays = shard
    assert same_arrays(there_and_back(backend(name), fields, arrays, size), arrays)


@pytest.mark.parametrize("name", BACKENDS)
@given(shard=shards())
def test_same_arrays_give_the_same_bytes(name: str, shard) -> None:
    fields, arrays = shard
    copies = {key: arrays[key].copy() for key in reversed(arrays)}
    stamp = {key: STAMP[key] for key in reversed(STAMP)}
    assert backend(name).encode(fields, [arrays], STAMP) == backend(name).encode(fields, [copies], stamp)


PRINT_DIGEST = """
import hashlib, sys
import numpy as np
from kdcache.store.backend import backend
from kdcache.targets.fields import Field
fields = [Field("x", "token", "float32", (4,)), Field("y", "token", "uint16")]
rows = 300_000
arrays = {"token_counts": np.full(100, rows // 100, np.uint32),
          "x": np.sin(np.arange(rows * 4, dtype=np.float32)).reshape(-1, 4),
          "y": (np.arange(rows) ** 2 % 5003).astype(np.uint16)}
print(hashlib.sha256(backend(sys.argv[1]).encode(fields, [arrays], {"unit": 1})).hexdigest())
"""


@pytest.mark.parametrize("name", BACKENDS)
def test_another_process_gives_the_same_bytes(name: str) -> None:
    def digest(hash_seed: str) -> str:
        command = [sys.executable, "-c", PRINT_DIGEST, name]
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    first = digest("1")
    assert len(first) == 65
    assert digest("2") == first


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("spec", [Sampled(), Dense(), Sampled(logit_dtype="float32")])
def test_empty_shard_of_real_fields(name: str, spec: RecordKind) -> None:
    fields = (Field("tokens", "token", "uint16"), *spec.fields(50_000))
    arrays = empty_arrays(fields)
    assert same_arrays(there_and_back(backend(name), fields, arrays), arrays)


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 16, 17, 100])
def test_zarr_cuts_arrays_into_equal_bounded_chunks(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(zarr_backend, "CHUNK_BYTES", 8 * 6)
    fields = (Field("x", "example", "uint16", (3,)),)
    arrays = {"x": np.zeros((rows, 3), np.uint16)}
    data = zarr_backend.ZARR.encode(fields, [arrays], STAMP)
    members = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert sum(member.startswith("0/x/c/") for member in members) == -(-rows // 8)
    assert same_arrays(there_and_back(zarr_backend.ZARR, fields, arrays), arrays)
    opened = zarr.open_group(in_memory(data), mode="r")
    assert np.array_equal(opened["0/x"][:], arrays["x"])


def in_memory(data: bytes) -> zarr.storage.MemoryStore:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        buffer = zarr.core.buffer.default_buffer_prototype().buffer
        return zarr.storage.MemoryStore({name: buffer.from_bytes(archive.read(name)) for name in archive.namelist()})


@pytest.mark.parametrize(
    ("examples", "tokens", "size"),
    [
        (100, 40, 100),
        (4096, 40, 4096),
        (5000, 40, 2500),
        (5000, 100, 2500),
        (5000, 2000, 500),
        (0, 40, 1),
        (3, 10**6, 1),
    ],
)
def test_a_block_is_two_megabytes_or_so_many_short_texts(examples: int, tokens: int, size: int) -> None:
    """Of short texts a Zarr block of 1,024 has a sixth more bytes for each than one of 4,096."""
    field = Field("tokens", "token", "uint16")
    counts = np.full(examples, tokens, np.uint32)
    arrays = {"token_counts": counts, "tokens": np.zeros(examples * tokens, np.uint16)}
    assert examples_of_a_block("auto", [field], arrays) == size


@given(shard=shards(), size=st.integers(1, 6))
@settings(max_examples=20)
def test_zarr_python_reads_every_array_of_every_block(shard, size: int) -> None:
    fields, arrays = shard
    blocks = cut(fields, arrays, size)
    opened = zarr.open_group(in_memory(backend("zarr").encode(fields, blocks, STAMP)), mode="r")
    assert opened.attrs["kdcache"] == STAMP
    assert len([*opened.members()]) == len(blocks)
    for number, block in enumerate(blocks):
        found = {name: np.asarray(array) for name, array in opened[str(number)].members()}
        assert same_arrays(found, {name: np.ascontiguousarray(array) for name, array in block.items()})
        for field in fields:
            assert opened[str(number)][field.name].metadata.dimension_names[0] == field.level


@given(shard=shards(), size=st.integers(1, 6))
@settings(max_examples=20)
def test_pyarrow_reads_every_row_of_every_block(shard, size: int) -> None:
    fields, arrays = shard
    blocks = cut(fields, arrays, size)
    opened = pa.ipc.open_file(backend("arrow").encode(fields, blocks, STAMP))
    assert opened.num_record_batches == len(blocks)
    for number, block in enumerate(blocks):
        found, stamp = from_arrow(fields, opened.get_batch(number))
        assert stamp == STAMP
        assert same_arrays(found, {name: np.ascontiguousarray(array) for name, array in block.items()})


@given(shard=shards(), size=st.integers(1, 6))
@settings(max_examples=20)
def test_every_reader_of_parquet_reads_every_row(shard, size: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """pyarrow (pandas, the Hub's viewer), DuckDB and Polars, on all dtypes, shapes and empty lists."""
    fields, arrays = shard
    path = tmp_path_factory.mktemp("parquet") / "shard.parquet"
    path.write_bytes(backend("parquet").encode(fields, cut(fields, arrays, size), STAMP))
    rows = pa.Table.from_batches([to_arrow(fields, arrays, STAMP)]).to_pylist()
    assert repr(pq.read_table(path).to_pylist()) == repr(rows)
    assert json.loads(pq.read_schema(path).metadata[b"kdcache"]) == STAMP
    assert repr(polars.read_parquet(path).to_dicts()) == repr(rows)
    found = duckdb.sql(f"select * from '{path}'")
    assert repr([dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]) == repr(rows)


@pytest.mark.parametrize("levels", [1, 2, 3])
@given(data=st.data())
def test_levels_of_parquet_follow_from_the_counts(levels: int, data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, 6))
    counts_K, parents = [], rows
    for _ in range(levels):
        counts_K.append(np.array(data.draw(st.lists(st.integers(0, 9), min_size=parents, max_size=parents)), np.uint32))
        parents = int(counts_K[-1].sum())
    text, slots = levels_of_counts(counts_K, rows)
    assert len(text) == room_of(levels, slots, parents)
    for depth, counts in enumerate(counts_K, 1):
        assert counts_of(memoryview(text), levels, slots, parents, depth).tolist() == counts.tolist()


def test_a_footer_of_parquet_that_its_blocks_do_not_make_is_refused() -> None:
    """It would show another reader other rows: pyarrow reads the first group twice where ours finds both."""
    fields, arrays = (Field("x", "token", "uint16"),), {"token_counts": np.array([1, 1], np.uint32)}
    blocks = cut(fields, arrays | {"x": np.array([7, 8], np.uint16)}, 1)
    data = backend("parquet").encode(fields, blocks, STAMP)
    groups, _ = parquet_backend._walk(fields, memoryview(data), len(data) - 8 - int.from_bytes(data[-8:-4], "little"))
    end = parquet_backend._footer(fields, [groups[0], groups[0]], STAMP)
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    forged = data[:start] + end + len(end).to_bytes(4, "little") + b"PAR1"
    assert pq.read_table(io.BytesIO(forged)).column("x").to_pylist() == [[7], [7]]
    with pytest.raises(ValueError, match="another footer than the blocks of the file make"):
        backend("parquet").layout(fields, forged)


def test_zarr_members_of_a_block_lie_together_stored_and_dated_1980() -> None:
    blocks = [empty_arrays(RAGGED)] * 12
    archive = zipfile.ZipFile(io.BytesIO(zarr_backend.ZARR.encode(RAGGED, blocks, STAMP)))
    first, *names = [info.filename for info in sorted(archive.infolist(), key=lambda info: info.header_offset)]
    assert first == "zarr.json"
    assert [number for number, _ in groupby(names, lambda name: name.partition("/")[0])] == [*map(str, range(12))]
    assert {(info.compress_type, info.date_time) for info in archive.infolist()} == {
        (zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0))
    }


def test_read_only_and_strided_arrays_can_be_written() -> None:
    fields = (Field("x", "example", "uint16"),)
    strided = np.arange(20, dtype=np.uint16)[::2]
    strided.flags.writeable = False
    for name in BACKENDS:
        assert same_arrays(there_and_back(backend(name), fields, {"x": strided}), {"x": strided})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.zeros(3, np.uint16)}, r"got tokens uint16\[3\], expected uint16\[4\]"),
        ({"tokens": np.zeros(4, np.int64)}, r"got tokens int64\[4\], expected uint16\[4\]"),
        ({"curve": np.zeros((2, 2), np.float16)}, r"got curve float16\[2, 2\], expected float16\[2, 3\]"),
        ({"entry_counts": np.array([1, 3], np.uint32)}, r"got ids uint32\[3\], expected uint32\[4\]"),
    ],
)
def test_check_arrays_names_the_wrong_one(change: dict[str, np.ndarray], message: str) -> None:
    arrays = {
        "token_counts": np.array([4, 0], np.uint32),
        "position_counts": np.array([2, 0], np.uint32),
        "entry_counts": np.array([1, 2], np.uint32),
        "tokens": np.zeros(4, np.uint16),
        "curve": np.zeros((2, 3), np.float16),
        "ids": np.zeros(3, np.uint32),
    }
    assert [*arrays] == [field.name for field in array_fields(RAGGED)]
    check_arrays(RAGGED, arrays)
    with pytest.raises(ValueError, match=message):
        check_arrays(RAGGED, arrays | change)
