"""What must lie on this machine is refused as a URL, in one line and before anything is written."""

import os
from pathlib import Path

import pytest
from helpers import Run

from kdcache.errors import KdcacheError
from kdcache.models.hub import model_folder

DUMP = "corpus: {paths: rows.jsonl, format: jsonl}\nteacher: {path: teacher}\noutput: cache\n"
TRAIN = "cache: cache\nstudent: {path: student}\noutput: run\nsteps: 1\n"
URL = "s3://bucket/x"
COMMANDS = [
    ("dump-logits", "dump.yaml", "-o", f"teacher.path={URL}"),
    ("dump-logits", "dump.yaml", "-o", f"tokenizer={URL}"),
    ("dump-logits", URL),
    ("train", "train.yaml", "-o", f"output={URL}"),
    ("train", "train.yaml", "-o", "output=file:///tmp/run"),
    ("train", "train.yaml", "-o", f"student.path={URL}"),
    ("train", "train.yaml", "-o", f"deepspeed={URL}"),
    ("train", URL),
    ("cut", "teacher", "--layers", "0", "--out", URL),
    ("cut", URL, "--layers", "0", "--out", "cut"),
    ("eval", URL, "--cache", "cache"),
    ("eval", "student", "--cache", "cache", "--teacher", URL),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "-".join(command).replace("/", ""))
def test_a_url_is_refused(command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    (tmp_path / "dump.yaml").write_text(DUMP)
    (tmp_path / "train.yaml").write_text(TRAIN)
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir())
    status, _, err = run(*command)
    said = err.strip()
    assert status == 2
    assert said.count("\n") == 0
    assert "got s3://bucket/x, expected a folder or file on this machine" in said or "expected a path: /tmp/run" in said
    assert sorted(os.listdir()) == before


def test_a_model_is_no_url() -> None:
    with pytest.raises(KdcacheError, match="teacher: got s3://bucket/x, expected a folder or file on this machine"):
        model_folder(URL, what="teacher", error=KdcacheError)
