"""Golden caches: what an earlier version wrote is read for ever, by kdcache and by a reader made after FORMAT.md."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from store.golden.make import CACHES, ROOT, decoded
from store.making import BACKENDS, tree

from kdcache.store import manifest
from kdcache.store.cache import open_cache
from kdcache.store.verify import verify
from kdcache.targets.registry import RECORDS
from kdcache.tasks.registry import TASKS

FOLDERS = [ROOT / f"{kind}-{backend}" for kind in CACHES for backend in BACKENDS]
PLAIN = [
    folder
    for folder in FOLDERS
    if folder.name.startswith(("sampled", "drawn", "top_k", "factored", "dense", "captured"))
]
SCHEMAS = Path(manifest.__file__).parent / "schemas"


def check_close(got: Any, expected: Any, where: str) -> None:
    """Within 1e-6, relative or absolute, key by key."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys(), where
        for key, value in expected.items():
            check_close(got[key], value, f"{where} {key}")
    elif where.endswith((" tokens", " positions", " ids", " counts")):
        assert got == expected, where
    else:
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6, err_msg=where)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_is_read_as_it_was(folder: Path) -> None:
    before = tree(folder)
    assert verify(folder) == []
    check_close(decoded(folder), json.loads((folder / "expected.json").read_bytes()), folder.name)
    assert tree(folder) == before


@pytest.mark.parametrize("folder", PLAIN, ids=lambda folder: folder.name)
def test_a_reader_without_kdcache_reads_the_same(folder: Path) -> None:
    command = [sys.executable, "-W", "error", Path(__file__).parent / "plain_reader.py", folder]
    read = subprocess.run([*command], cwd="/", env={}, check=True, capture_output=True, text=True)
    expected = json.loads((folder / "expected.json").read_bytes())
    found = json.loads(read.stdout)
    check_close(found, {key: expected[key] for key in found}, folder.name)


def test_every_kind_and_task_has_one() -> None:
    headers = [open_cache(folder).manifest.header for folder in FOLDERS]
    assert {kind.kind for header in headers for kind in header.records} >= {*RECORDS.built_in}
    assert {header.task["name"] for header in headers} >= {*TASKS.built_in}
    found = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert found == {folder.name for folder in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_schemas_hold(folder: Path) -> None:
    for schema, pattern in {
        "manifest": "cache.json",
        "header": "header.json",
        "commit_record": "shards/*/*.json",
    }.items():
        validator = jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{schema}.json").read_bytes()))
        paths = [*folder.glob(pattern)]
        assert paths
        for path in paths:
            validator.validate(json.loads(path.read_bytes()))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("later", 1),
        ("seed", None),
        ("seed", -1),
        ("format_version", "1"),
        ("requires", "all"),
        ("records", [{"kind": "sampled", "sample": 3}]),
        ("records", [{"exact_top_k": 3}]),
        ("fields", [{"name": "tokens"}]),
        ("id2label", {"0": 5}),
    ],
)
def test_the_schema_refuses_what_is_no_header(key: str, value: object) -> None:
    values = json.loads((FOLDERS[0] / "header.json").read_bytes())
    validator = jsonschema.Draft202012Validator(json.loads((SCHEMAS / "header.json").read_bytes()))
    assert validator.is_valid(values)
    assert validator.is_valid(values | {"records": [{"kind": "mine", "anything": 1}]})
    assert not validator.is_valid(values | {key: value})
    assert not validator.is_valid({other: values[other] for other in values if other != key} if key in values else {})
