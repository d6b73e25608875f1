"""Edits of a cache with every digest recomputed: found when a shard is decoded, whose stamp says what it is part of."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store.forging import digest, forge, manifest_of, write_values
from store.making import write_cache
from store.test_basis_file import write as write_factored

from kdcache import open_cache
from kdcache.errors import CacheError, DamagedShardError
from kdcache.store.verify import verify


def shards_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("shards/*/*") if path.suffix != ".json")


def read_all(folder: Path) -> None:
    cache = open_cache(folder)
    for index in range(len(cache.shard_examples)):
        batch = cache.read_shard(index)
        if batch.records:
            batch.targets()


@pytest.fixture(params=["sampled", "factored"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, backend_name: str) -> Path:
    write_one(request.param, tmp_path / "cache", backend_name)
    return tmp_path / "cache"


def write_one(kind: str, folder: Path, backend: str, **settings: object) -> None:
    if kind == "factored":
        write_factored(folder, backend=backend, block_examples=1, **settings)
    else:
        write_cache(folder, backend=backend, block_examples=1, **settings)


def test_a_forger_who_changes_nothing_is_not_noticed(folder: Path) -> None:
    before = (folder / "cache.json").read_bytes()
    forge(folder)
    assert (folder / "cache.json").read_bytes() == before
    read_all(folder)


def test_shards_cannot_be_exchanged(folder: Path) -> None:
    first, second, *_ = shards_of(folder)
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)

    def exchange(values: dict[str, Any]) -> None:
        a, b = values["shards"][:2]
        for name in a.keys() - {"unit", "file"}:
            a[name], b[name] = b[name], a[name]

    forge(folder, exchange)
    with pytest.raises(DamagedShardError, match="is part of another whole: got unit 1, expected 0"):
        read_all(folder)
    assert len({fault.shard for fault in verify(folder)}) == 2


def test_blocks_cannot_be_exchanged_inside_a_shard(folder: Path, backend_name: str) -> None:
    """Every byte of the file is sound, moved along with its line in the commit record."""
    path, header = shards_of(folder)[0], manifest_of(folder)["header"]
    data = path.read_bytes()
    commit = open_cache(folder).manifest.shards[0]
    first, second = commit.block(0), commit.block(1)
    between = data[first.stop : second.start]
    path.write_bytes(
        data[: first.start]
        + data[second.start : second.stop]
        + between
        + data[first.start : first.stop]
        + data[second.stop :]
    )

    def follow(values: dict[str, Any]) -> None:
        lines = values["shards"][0]["blocks"]
        a, b = (line.split(" ")[3:] for line in lines[:2])
        places = [(first.start, second.bytes), (first.start + second.bytes + len(between), first.bytes)]
        lines[:2] = [" ".join([*map(str, at), "0" * 64, *counts]) for at, counts in zip(places, (b, a), strict=True)]

    def digests(values: dict[str, Any]) -> None:
        whole = path.read_bytes()
        for shard in values["shards"][:1]:
            parts = [line.split(" ") for line in shard["blocks"]]
            shard["blocks"] = [
                " ".join([a, n, digest(whole[int(a) : int(a) + int(n)]), *counts]) for a, n, _, *counts in parts
            ]
            shard |= {"sha256": digest(whole)}

    values = manifest_of(folder)
    follow(values)
    digests(values)
    assert values["header"] == header
    write_values(folder, values)
    for block in (0, 1):
        with pytest.raises(DamagedShardError, match=rf"block {block}: .*another whole: got block"):
            open_cache(folder).read_block(0, block)
    assert verify(folder)


def test_blocks_cannot_be_exchanged_between_shards(folder: Path) -> None:
    one, other = shards_of(folder)[:2]
    values = manifest_of(folder)
    mine, theirs = (values["shards"][unit]["blocks"] for unit in (0, 1))
    a, b = (line.split(" ") for line in (mine[0], theirs[0]))
    data, size = one.read_bytes(), len(one.read_bytes())
    block = other.read_bytes()[int(b[0]) : int(b[0]) + int(b[1])]
    one.write_bytes(data[: int(a[0])] + block + data[int(a[0]) + int(a[1]) :])
    mine[0] = " ".join([a[0], b[1], b[2], *b[3:]])
    shift = int(b[1]) - int(a[1])
    rest = [line.split(" ") for line in mine[1:]]
    mine[1:] = [" ".join([str(int(start) + shift), *others]) for start, *others in rest]
    shard = values["shards"][0]
    for place, name in enumerate(("tokens", "documents", "positions", "entries"), 3):
        shard[name] += int(b[place]) - int(a[place])
        values["totals"][name] += int(b[place]) - int(a[place])
    shard |= {"bytes": size + shift, "sha256": digest(one.read_bytes())}
    values["totals"]["bytes"] += shift
    write_values(folder, values)
    with pytest.raises(DamagedShardError, match="another whole: got unit 1, expected 0"):
        open_cache(folder).read_block(0, 0)


def test_a_shard_of_another_cache_is_refused(folder: Path, tmp_path: Path, backend_name: str) -> None:
    kind = "factored" if list(folder.glob("basis-*")) else "sampled"
    other = {"seed": 1} if kind == "factored" else {"record": {"kind": "sampled", "exact_top_k": 4}}
    write_one(kind, tmp_path / "other", backend_name, **other)
    shutil.copy(shards_of(tmp_path / "other")[0], shards_of(folder)[0])
    theirs = manifest_of(tmp_path / "other")["shards"][0]
    forge(folder, lambda values: values["shards"][0].update(theirs))
    with pytest.raises(DamagedShardError, match="is part of another whole: got header_sha256"):
        read_all(folder)


def test_only_the_digest_tells_a_shard_of_the_same_header(tmp_path: Path, backend_name: str) -> None:
    """As FORMAT.md, section 7, says: of another corpus, at the same place, with its commit record."""
    mixed, other = tmp_path / "cache", tmp_path / "other"
    write_cache(mixed, backend=backend_name)
    write_cache(other, seed=1, backend=backend_name)
    assert manifest_of(mixed)["header"] == manifest_of(other)["header"]
    before = open_cache(mixed).digest
    shutil.copy(shards_of(other)[0], shards_of(mixed)[0])
    theirs = manifest_of(other)["shards"][0]
    forge(mixed, lambda values: values["shards"][0].update(theirs))
    read_all(mixed)
    assert verify(mixed) == []
    assert open_cache(mixed).digest != before


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 5},
        {"compute": {"threads": 9}},
        {"teacher": {"name": "someone else's"}},
        {"libraries": {}},
        {"task": {"name": "causal_lm", "attention": "causal"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_header_cannot_be_edited(folder: Path, change: dict[str, Any]) -> None:
    forge(folder, lambda values: values["header"].update(change))
    with pytest.raises(CacheError, match=r"is part of another whole|is damaged: task"):
        read_all(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"source_sha256": "ab" * 32},
        {"notes": {"truncated": 7}},
        {"skipped": [{"row": 0, "why": "is not JSON"}]},
        {"made_under": {"overlong": "truncate"}},
        {"score": {"labelled": 1}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_commit_record_cannot_be_edited(folder: Path, change: dict[str, Any]) -> None:
    forge(folder, lambda values: [shard.update(change) for shard in values["shards"]])
    with pytest.raises(DamagedShardError, match="is part of another whole: got record_sha256"):
        read_all(folder)


def test_the_basis_of_another_cache_is_refused(tmp_path: Path, backend_name: str) -> None:
    write_factored(tmp_path / "cache", backend=backend_name)
    write_factored(tmp_path / "other", backend=backend_name, seed=1)
    (mine,), (theirs,) = (list((tmp_path / name).glob("basis-*")) for name in ("cache", "other"))
    mine.unlink()
    shutil.copy(theirs, tmp_path / "cache")
    forge(tmp_path / "cache", lambda values: values["header"]["basis"].update(file=theirs.name))
    with pytest.raises(CacheError, match=r"basis.* is part of another whole: got basis_of_sha256"):
        assert open_cache(tmp_path / "cache").basis


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values["header"]["fields"].pop(), "got the field none, expected logits uint16"),
        (lambda values: values["header"]["fields"][0].update(dtype="int64"), "got the field tokens int64"),
        (lambda values: values["header"].update(num_classes=70_000), "expected ids uint32"),
        (lambda values: values["header"]["task"].update(name="regression"), "requires|expected"),
        (lambda values: values["header"].update(id2label={"0": "a"}), "id2label: got 1 names, expected one for each"),
        (lambda values: values["shards"][0].update(examples=1 << 47), r"row 0 has \d+ \w+, expected at most"),
        (lambda values: values["shards"][0].update(positions=-1), "row 0 has -1 positions, expected at least 0"),
        (lambda values: values["shards"][0].update(tokens=3), r"row 0 has \d+ .*, expected at most 3 \(tokens\)"),
        (lambda values: values["shards"][0].update(file="cache.json"), "file: got cache.json, expected shards/000/000"),
        (lambda values: values["totals"].update(shards=1), r"table: got \d+ bytes|got 3 rows, expected 1"),
        (lambda values: values["header"].update(seed="0"), "other JSON than a writer makes of its values"),
    ],
)
def test_a_manifest_agrees_with_itself(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    write_cache(tmp_path)
    forge(tmp_path, change)
    with pytest.raises(CacheError, match=message):
        read_all(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 100_000, '"\\ud800"', "NaN", "[1e999]", ""])
def test_odd_json_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "cache.json").write_text(text)
    with pytest.raises(CacheError, match=r"cache\.json is"):
        open_cache(tmp_path)
