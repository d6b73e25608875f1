"""Mutations of a cache's files, and what reading it may do about them: refuse it in one line, or read what was there.

Not forged: bytes change and nobody recomputes a digest. Forged: every digest outside the shards is recomputed.
Rewritten: shards are changed too, so that their content may be another; then a reader need not notice, but it must not
break.
"""

import io
import json
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from store.forging import as_json, forge, manifest_of, write_values
from store.making import same_arrays

from kdcache import open_cache
from kdcache.errors import KdcacheError
from kdcache.store import parquet_backend
from kdcache.store.batch import Batch
from kdcache.store.parquet_text import page_head, read_page_head
from kdcache.store.verify import verify
from kdcache.store.zip_file import ZipWriter
from kdcache.targets.fields import Field

__all__ = ["MUTATIONS", "Outcome", "change_bytes", "change_value", "outcome", "whole"]

Outcome = Counter[str]
ODD: list[Any] = [
    None, True, -1, 0, 1, 3, 255, 1 << 31, 1 << 48, (1 << 63) - 1, 1 << 63, 1 << 200, 0.5, 1e308, "", "a", "../a", "0",
    "\x1b[31m", "ü", "uint64", "object", "float16", "entry", "class", "zarr", "sampled", [], [0], {}, {"a": 1}, [[]],
    "0" * 64, "shards/000/000000.arrow", "x" * 5000,
]  # fmt: skip


def change_bytes(rng: Random, data: bytes) -> bytes:
    """Flip, cut, add or repeat some."""
    if not data:
        return b"\0"
    place = rng.randrange(len(data))
    kind = rng.choice(["flip", "flip", "flip", "cut", "zero", "insert", "repeat", "number"])
    if kind == "flip":
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    if kind == "cut":
        return data[:place]
    if kind == "zero":
        length = rng.randrange(1, 64)
        return data[:place] + bytes(len(data[place : place + length])) + data[place + length :]
    if kind == "number":
        number = rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1, 1 << 40]).to_bytes(8, "little")
        width = rng.choice([4, 8])
        return data[:place] + number[:width] + data[place + width :]
    if kind == "insert":
        return data[:place] + rng.randbytes(rng.randrange(1, 9)) + data[place:]
    return data + data[place:]


def change_value(rng: Random, values: Any) -> Any:
    """Replace, delete or repeat one value of some JSON, anywhere in it; in place."""
    places = [*_places(values)]
    parent, key = rng.choice(places)
    kind = rng.choice(["odd", "odd", "odd", "delete", "other", "rename"])
    if kind == "delete" or (kind == "rename" and isinstance(parent, list)):
        del parent[key]
    elif kind == "rename":
        parent[rng.choice(["later", "", "unit", "a" * 100])] = parent.pop(key)
    elif kind == "other":
        other, name = rng.choice(places)
        parent[key] = json.loads(json.dumps(other[name])) if name in other or isinstance(other, list) else None
    else:
        parent[key] = json.loads(json.dumps(rng.choice(ODD)))
    return values


def _places(values: Any) -> Any:
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in [*items]:
        yield values, key
        yield from _places(value)


def file_bytes(rng: Random, folder: Path) -> None:
    """Not forged: some bytes of any file."""
    path = rng.choice([path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != ".kdcache"])
    path.write_bytes(change_bytes(rng, path.read_bytes()))


def manifest_value(rng: Random, folder: Path) -> None:
    """A value of cache.json alone."""
    path = folder / "cache.json"
    path.write_bytes(as_json(change_value(rng, json.loads(path.read_bytes()))))


def forged_value(rng: Random, folder: Path) -> None:
    """A value of cache.json, and whatever follows from it."""
    try:
        forge(folder, lambda values: change_value(rng, values))
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, OSError):  # nothing to be added up
        manifest_value(rng, folder)


def exchanged(rng: Random, folder: Path) -> None:
    """Forged: one shard stands in for another, its record goes with it."""
    shards = _shards(folder)
    one, other = rng.sample(shards, 2)
    one.write_bytes(other.read_bytes())

    def follow(values: dict[str, Any]) -> None:
        a, b = (values["shards"][int(path.name[:6])] for path in (one, other))
        a.update({key: b[key] for key in b if key not in ("unit", "file")})

    forge(folder, follow)


def moved_blocks(rng: Random, folder: Path) -> None:
    """Forged: the lines of two blocks of a commit record are exchanged, or one stands twice."""

    def move(values: dict[str, Any]) -> None:
        shard = rng.choice(values["shards"])
        lines = shard["blocks"]
        one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        (start, size, sha256, *_), counts = lines[other].split(" "), lines[one].split(" ")[3:]
        lines[one] = " ".join([start, size, sha256, *(counts if rng.random() < 0.5 else lines[other].split(" ")[3:])])

    manifest = manifest_of(folder)
    move(manifest)
    write_values(folder, manifest)


def rewritten_bytes(rng: Random, folder: Path) -> None:
    """Rewritten: bytes of a shard or of a basis."""
    path = rng.choice([*_shards(folder), *folder.glob("basis-*")])
    path.write_bytes(change_bytes(rng, path.read_bytes()))
    forge(folder)


def rewritten_member(rng: Random, folder: Path) -> None:
    """Rewritten: a member of a Zarr shard, its checksum made right again; a page of a Parquet one; of Arrow, bytes."""
    path = rng.choice([*_shards(folder), *folder.glob("basis-*")])
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
        path.write_bytes(_zip(_changed(rng, members), rng))
    elif path.suffix == ".parquet":
        path.write_bytes(_page_changed(rng, path.read_bytes(), _fields(folder, path)))
    else:
        path.write_bytes(change_bytes(rng, path.read_bytes()))
    forge(folder)


def _changed(rng: Random, members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    index = rng.randrange(len(members))
    name, data = members[index]
    kind = rng.choice(["bytes", "value", "value", "delete", "repeat", "rename", "exchange"])
    if kind == "value" and name.endswith("zarr.json"):
        members[index] = name, json.dumps(change_value(rng, json.loads(data))).encode()
    elif kind == "delete":
        del members[index]
    elif kind == "repeat":
        members.append((name, change_bytes(rng, data)))
    elif kind == "rename":
        members[index] = (
            rng.choice(["a", "../a", "/a", "0/ids/c/7", "zarr.json", "0/zarr.json", "1/zarr.json", name + "x"]),
            data,
        )
    elif kind == "exchange":
        members[index] = name, rng.choice(members)[1]
    else:
        members[index] = name, change_bytes(rng, data)
    return members


def _fields(folder: Path, path: Path) -> list[Field]:
    header = manifest_of(folder)["header"]
    if path.name.startswith("basis-"):
        return [Field("mean", "class", "float32"), Field("basis", "class", "float16", (header["basis"]["rank"],))]
    return [Field(**{**field, "shape": tuple(field["shape"])}) for field in header["fields"]]


def _page_changed(rng: Random, data: bytes, fields: list[Field]) -> bytes:
    """A page, or the text before the first one, with other content and sizes that fit it; the footer follows."""
    whole = pq.read_metadata(io.BytesIO(data))
    group = whole.row_group(rng.randrange(whole.num_row_groups))
    at = group.column(rng.randrange(group.num_columns)).data_page_offset
    page = read_page_head(memoryview(data), at)
    start = at + page.length
    raw = pa.Codec("zstd").decompress(data[start : start + page.stored], page.decoded, asbytes=True)
    raw = change_bytes(rng, raw)
    stored = pa.Codec("zstd").compress(raw, asbytes=True)
    count = rng.choice([page.slots] * 3 + [0, 1, page.slots + 1, (1 << 31) - 1])
    head = page_head(page.kind, len(raw), len(stored), count, page.encoding)
    blocks = data[4:at] + head + stored + data[start + page.stored : -8 - int.from_bytes(data[-8:-4], "little")]
    return _with_footer(data[:4] + blocks, fields)


def _with_footer(blocks: bytes, fields: list[Field]) -> bytes:
    """As the blocks make it, where they can be walked through."""
    try:
        groups, stamps = parquet_backend._walk(fields, memoryview(blocks), len(blocks))
        stamp = {key: value for key, value in stamps[0].items() if key != "block"}
        end = parquet_backend._footer(fields, groups, stamp)
    except (ValueError, LookupError, struct.error):
        end = b"no footer"
    return blocks + end + len(end).to_bytes(4, "little") + b"PAR1"


def _zip(members: list[tuple[str, bytes]], rng: Random) -> bytes:
    if rng.random() < 0.8:  # as kdcache writes them
        writer = ZipWriter()
        for name, data in members:
            writer.add(name, data)
        return writer.finish()
    packed = io.BytesIO()
    method = rng.choice([zipfile.ZIP_STORED] * 3 + [zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(packed, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that come twice
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return packed.getvalue()


def _shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("shards/*/*") if path.suffix != ".json")


MUTATIONS: dict[str, Callable[[Random, Path], None]] = {
    "bytes": file_bytes,
    "value": manifest_value,
    "forged value": forged_value,
    "exchanged": exchanged,
    "moved blocks": moved_blocks,
    "rewritten bytes": rewritten_bytes,
    "rewritten member": rewritten_member,
}
REWRITTEN = ("rewritten bytes", "rewritten member")


def whole(folder: Path) -> list[dict[str, np.ndarray]]:
    """Every array of every shard, and what the records say."""
    cache = open_cache(folder)
    batches = [cache.read_shard(index) for index in range(len(cache.shard_examples))]
    return [batch.arrays | _said(batch) for batch in batches]


def _said(batch: Batch) -> dict[str, np.ndarray]:
    said = {"labels": batch.labels}
    if batch.distribution is None:
        return said
    with np.errstate(all="ignore"):
        targets = batch.targets()
        said["log_partition"] = targets.log_partition(1.0).numpy()
        said["weights"] = targets.weights(1.0).numpy()
        if targets.knows_every_class:
            said["dense"] = targets.dense_log_probs(1.0).numpy()
    return said


def outcome(name: str, rng: Random, folder: Path, sound: list[dict[str, np.ndarray]]) -> str:
    """Mutate a cache and read it: "refused", "the same", or of a rewritten one "other content".

    Raises AssertionError for another batch without a word, and whatever else comes out of reading.
    """
    MUTATIONS[name](rng, folder)
    read, refusal = _refused(lambda: whole(folder))
    _, verdict = _refused(lambda: verify(folder))
    assert "\n" not in f"{refusal} {verdict}"
    if read is None:
        return "refused"
    alike = len(read) == len(sound) and all(map(same_arrays, read, sound))
    assert alike or name in REWRITTEN, "another batch without a word"
    return "the same" if alike else "other content"


def _refused(read: Callable[[], Any]) -> tuple[Any, KdcacheError | None]:
    try:
        return read(), None
    except KdcacheError as error:
        return None, error
