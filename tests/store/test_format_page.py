"""FORMAT.md names every key and every array that a cache may hold."""

import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
from pydantic import BaseModel
from store.making import write_cache

from kdcache.store import manifest
from kdcache.store.schema import task_fields
from kdcache.store.verify import verify
from kdcache.targets.fields import COUNTS
from kdcache.targets.records import record_kinds
from kdcache.tasks.registry import TASKS, task_of

PAGE = (Path(manifest.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")
NAMED = {*re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`", PAGE))), *re.findall(r"\w+_counts", PAGE)}
FILES = [one for one in vars(manifest).values() if isinstance(one, type) and issubclass(one, manifest.Model)]
RECORDS = [
    {"kind": "sampled", "logit_dtype": "uint8"},
    {"kind": "drawn"},
    {"kind": "top_k", "k": 5},
    {"kind": "factored", "rank": 4},
    {"kind": "dense"},
    {"kind": "captured", "k": 5},
    {"kind": "features"},
]


@pytest.mark.parametrize("model", [one for one in FILES if one.model_fields], ids=lambda one: one.__name__)
def test_every_key_is_named(model: type[BaseModel]) -> None:
    assert (model.model_fields.keys() | model.model_computed_fields.keys()) - NAMED == set()


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["kind"])
def test_every_array_of_a_record_is_named(record: dict) -> None:
    fields = [field for kind in record_kinds(record) for field in kind.fields(40, width=8, rank=4)]
    assert {field.name for field in fields} - NAMED == set()
    assert record["kind"] in NAMED
    (kind,) = record_kinds(record)
    assert type(kind).model_fields.keys() - NAMED == set()


def test_every_array_of_a_task_is_named() -> None:
    for name in [name for name in TASKS if TASKS[name].__module__.startswith("kdcache.")]:
        fields = task_fields(task_of({"name": name}), 300, 40, types=True)
        assert {field.name for field in fields} - NAMED == set()
    assert {*COUNTS.values()} <= NAMED


def test_the_version_is_this_one() -> None:
    assert f"version {manifest.FORMAT_VERSION}" in PAGE.splitlines()[0]


def test_a_signature_as_the_page_says(tmp_path: Path) -> None:
    """The two commands of the page, with a key made here; a changed cache.json is refused."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    write_cache(tmp_path / "my-cache", record=None)
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key], check=True)
    signer = f"ann@example.org {(tmp_path / 'key.pub').read_text()}"
    (tmp_path / "allowed_signers").write_text(signer)
    sign, check = re.findall(r"^ssh-keygen -Y .*$", PAGE, re.MULTILINE)
    run = partial(subprocess.run, shell=True, cwd=tmp_path, capture_output=True, text=True)
    run(sign.replace("~/.ssh/id_ed25519", str(key)), check=True)
    assert 'Good "kdcache" signature for ann@example.org' in run(check, check=True).stdout
    assert verify(tmp_path / "my-cache") == []
    with open(tmp_path / "my-cache/cache.json", "ab") as file:
        file.write(b" ")
    assert run(check).returncode != 0
