"""Header, commit records and manifest: canonical bytes, and files of others refused in one line."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kdcache.errors import CacheError
from kdcache.store.commits import Commits
from kdcache.store.manifest import (
    FORMAT_VERSION,
    CommitRecord,
    Header,
    Manifest,
    TokenizerPin,
    canonical,
    difference,
    parse,
)
from kdcache.store.schema import task_fields
from kdcache.store.shards import manifest_of
from kdcache.targets.fields import Field
from kdcache.targets.sampled import Sampled
from kdcache.tasks import task_of

SHA = "ab" * 32


def header(**changes: object) -> Header:
    settings = {
        "task": {"name": "causal_lm", "attention": "document"},
        "records": (Sampled(),),
        "num_classes": 50,
        "fields": task_fields(task_of({}), 50, 50, (Sampled(),)),
    }
    return Header(**{**settings, **changes})


def commit(unit: int, **changes: object) -> CommitRecord:
    counts = dict.fromkeys(("examples", "tokens", "documents", "positions", "entries", "bytes"), unit + 1)
    values = {
        "unit": unit,
        "file": f"shards/000/{unit:06d}.arrow",
        "sha256": SHA,
        "header_sha256": header().digest(),
        "block_examples": unit + 1,
        "blocks": [f"0 {unit + 1} {SHA}" + f" {unit + 1}" * 4],
        **counts,
    }
    return CommitRecord(**{**values, **changes})


@given(
    seed=st.integers(0, 2**63),
    compute=st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
)
def test_header_comes_back(seed: int, compute: dict[str, float]) -> None:
    first = header(seed=seed, compute=compute, id2label={10: "b", 9: "a"})
    again = parse(Header, canonical(first), "header.json")
    assert again == first
    assert again.digest() == first.digest()
    assert canonical(first).endswith(b"}\n")


def test_manifest_comes_back_with_its_totals() -> None:
    commits = Commits.of([commit(0, notes={"truncated": 2}), commit(1, notes={"truncated": 1, "dropped": 5})])
    first, table = manifest_of(header(), commits)
    assert first.totals.notes == {"truncated": 3, "dropped": 5}
    assert (first.totals.shards, first.totals.examples, first.totals.bytes) == (2, 3, 3)
    assert first.shard_examples.tolist() == [1, 2]
    again = parse(Manifest, canonical(first), "cache.json")
    assert (again.totals, again.table, again.digest()) == (first.totals, first.table, first.digest())
    assert again.table.sha256 == hashlib.sha256(table).hexdigest()


def test_canonical_bytes_are_pinned() -> None:
    """What older caches' digests were made of must not drift."""
    record = commit(3, source_sha256=SHA, header_sha256=SHA)
    assert canonical(record).decode() == (
        f'{{\n "block_examples": 4,\n "blocks": [\n  "0 4 {SHA} 4 4 4 4"\n ],\n'
        ' "bytes": 4,\n "documents": 4,\n "entries": 4,\n "examples": 4,\n'
        ' "file": "shards/000/000003.arrow",\n'
        f' "header_sha256": "{SHA}",\n "notes": {{}},\n "positions": 4,\n "sha256": "{SHA}",\n'
        f' "source_sha256": "{SHA}",\n "tokens": 4,\n "unit": 3\n}}\n'
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": []}, "got 0 blocks, expected 1 of 1 examples"),
        ({"blocks": [f"0 1 {SHA} 1 1 1 1", f"1 1 {SHA} 0 0 0 0"]}, "got 2 blocks, expected 1"),
        ({"blocks": [f"0 2 {SHA} 1 1 1 1"]}, "end at 2, expected them in order inside 1 bytes"),
        ({"blocks": [f"0 1 {SHA} 1 2 1 1"]}, "got blocks of 2 documents, expected 1"),
        ({"blocks": [f"00 1 {SHA} 1 1 1 1"]}, "String should match pattern"),
        ({"blocks": [f"0 1 {SHA} 1 1 1"]}, "String should match pattern"),
        ({"block_examples": 0}, "greater than or equal to 1"),
        ({"examples": 2, "blocks": [f"2 2 {SHA} 1 1 1 1", f"0 2 {SHA} 0 0 0 0"]}, "overlap"),
    ],
)
def test_blocks_fit_the_rest_of_their_commit_record(changes: dict[str, object], message: str) -> None:
    if "examples" in changes:
        changes = {"bytes": 4, "block_examples": 1, **changes}
    with pytest.raises(ValidationError, match=message):
        commit(0, **changes)


def test_a_key_added_later_leaves_digests_as_they_are() -> None:
    class Later(Header):
        added_later: int | None = None

    written = canonical(header())
    assert Later.model_validate_json(written).digest() == header().digest()
    assert b"null" not in written


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"seed": 1}, ("seed", 0, 1)),
        ({"records": (Sampled(exact_top_k=7),)}, ("records.sampled.exact_top_k", 8, 7)),
        ({"task": {"name": "causal_lm"}}, ("task.attention", "document", None)),
        ({"compute": {"threads": 2}, "seed": 9}, ("compute.threads", None, 2)),
    ],
)
def test_difference_names_the_first_key(changes: dict[str, object], expected: object) -> None:
    assert difference(header(), header(**changes)) == expected


@pytest.mark.parametrize(
    ("cls", "data", "message"),
    [
        (Header, b"\xff\x00", "cache.json is not JSON"),
        (Manifest, b"[]", "cache.json is damaged: it: "),
        (Header, b'{"format_version": 2, "new": 1}', "format version 2, expected at most 1: update kdcache"),
        (Manifest, b'{"header": {"format_version": 9}}', "format version 9, expected at most 1: update kdcache"),
    ],
)
def test_what_is_no_manifest_is_refused(cls: type, data: bytes, message: str) -> None:
    assert FORMAT_VERSION == 1
    with pytest.raises(CacheError, match=message):
        parse(cls, data, "cache.json")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "shards/../../x"])
def test_paths_that_leave_the_cache_are_refused(name: str) -> None:
    values = json.loads(canonical(commit(0)))
    values["file"] = name
    with pytest.raises(CacheError, match=r"damaged: file: .*expected a relative path inside the cache"):
        parse(CommitRecord, json.dumps(values).encode(), "000000.json")
    with pytest.raises(ValidationError, match="expected a relative path inside the cache"):
        TokenizerPin(behaviour_sha256=SHA, vocab_size=5, files={name: SHA})


@pytest.mark.parametrize(
    "field",
    [
        Field("tokens", "token", "object"),
        Field("tokens", "token", "M8[s]"),
        Field("a/b", "token", "uint8"),
        Field("token_counts", "token", "uint32"),
        Field("x", "token", "uint8", (0,)),
    ],
)
def test_fields_that_no_shard_can_hold_are_refused(field: Field) -> None:
    """dtype object would mean pickle."""
    with pytest.raises(ValidationError, match="expected"):
        header(fields=(field,))
