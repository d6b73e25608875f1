"""Damaged files and a missing GPU, from the command line: one line and the right exit status."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from helpers import Run, make_model
from train.tiny import train_settings, write_cache

from kdcache.errors import StudentError
from kdcache.launcher import World
from kdcache.owned.folder import claim
from kdcache.store.cache import open_cache
from kdcache.students.making import make_student
from kdcache.students.settings import StudentConfig
from kdcache.train.log import Log


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("damage") / "held-out", examples=4)


@pytest.fixture
def line_of(run: Run) -> Callable[..., tuple[int, str]]:
    """Exit status of a command, and the one line that says what is wrong."""

    def call(*arguments: object) -> tuple[int, str]:
        status, _, err = run(*arguments)
        (line,) = [line for line in err.splitlines() if not line.startswith("cache: ")]
        return status, line

    return call


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def emptied(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def of_another_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))


def without_heads(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 0}))


DAMAGE = {
    truncated: "its weights are damaged",
    emptied: "its weights are damaged",
    of_another_config: "down_proj.weight is of shape [32, 64], expected [32, 48] as its config.json says",
    without_heads: "ZeroDivisionError",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_student_in_eval_and_in_train(
    damage: object,
    held_out: Path,
    tmp_path: Path,
    line_of: Callable[..., tuple[int, str]],
) -> None:
    make_model(tmp_path / "student")
    damage(tmp_path / "student")  # type: ignore[operator]
    status, line = line_of("eval", tmp_path / "student", "--cache", held_out)
    assert status == 1
    assert DAMAGE[damage] in line  # type: ignore[index]
    with pytest.raises(StudentError) as caught:
        make_student(StudentConfig(path=str(tmp_path / "student")), open_cache(held_out), 0)
    assert DAMAGE[damage] in str(caught.value)  # type: ignore[index]
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_eval_on_a_gpu_that_is_not_there(
    held_out: Path, tmp_path: Path, line_of: Callable[..., tuple[int, str]]
) -> None:
    make_model(tmp_path / "student")
    found = line_of("eval", tmp_path / "student", "--cache", held_out, "--device", "cuda")
    assert found == (
        2,
        "kdcache: got --device cuda and no GPU that torch can use, expected --device cpu or auto here",
    )


@pytest.mark.parametrize("below", ["", "folder"])
def test_a_file_in_the_way_of_a_cut(below: str, tmp_path: Path, line_of: Callable[..., tuple[int, str]]) -> None:
    make_model(tmp_path / "teacher")
    (tmp_path / "mine").write_text("x")
    status, line = line_of("cut", tmp_path / "teacher", "--layers", 0, "--out", tmp_path / "mine" / below)
    assert status == 2
    assert line.endswith("mine is a file; expected a new folder")
    assert (tmp_path / "mine").read_text() == "x"


@pytest.mark.parametrize(
    "damage", [b"{", b"[]", b"null", b"\xff", b'{"steps": 6}', b'{"steps": "x", "settings": {}}', b"[" * 9999]
)
def test_a_damaged_mark_of_a_finished_run(
    damage: bytes,
    tmp_path: Path,
    held_out: Path,
    line_of: Callable[..., tuple[int, str]],
) -> None:
    output = tmp_path / "out"
    claim(output, "run")
    make_model(output / "student")
    (output / "done.json").write_bytes(damage)
    settings = train_settings(held_out, output, global_batch=2, stream={"lanes": 2}, micro_batch=1)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(settings))
    status, line = line_of("train", tmp_path / "train.yaml")
    assert status == 1
    assert "done.json is damaged" in line
    assert "delete it and run the same command again" in line


def line_of_log(step: int, group: str = "train") -> bytes:
    return json.dumps(
        {"step": step, "group": group, "time": "2026-11-26T05:00:00Z", "epoch": 0.1, "loss": 1.0}
    ).encode()


def test_lines_of_others_in_the_log_stay(tmp_path: Path) -> None:
    """What this run does again goes, and so does a line that a kill cut off."""
    path = tmp_path / "log.jsonl"
    others = [b"a note of mine", b'{"a": 1}', b"[1]", b"\xff\xfe", b'{"step": 900, "loss": 3}', b'{"step": 3, "gro']
    kept = [line_of_log(1), *others, line_of_log(2), line_of_log(2, "eval")]
    path.write_bytes(b"\n".join([*kept, line_of_log(3), line_of_log(2, "change"), b'{"step": 2, "gro']))
    Log(tmp_path, None, World(), 2)
    assert path.read_bytes().splitlines() == kept
    Log(tmp_path, None, World(), 2, again=("eval",))
    assert path.read_bytes().splitlines() == kept[:-1]


def test_a_log_that_has_nothing_to_lose_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(line_of_log(1) + b"\n")
    before = path.stat().st_ino
    Log(tmp_path, None, World(), 2)
    assert path.stat().st_ino == before


def test_a_line_has_time_and_epoch(tmp_path: Path) -> None:
    Log(tmp_path, None, World(), 0, steps_per_epoch=8).write(2, "train", {"loss": 1.5})
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line.pop("time").endswith("Z")
    assert line == {"step": 2, "group": "train", "epoch": 0.25, "loss": 1.5}


def test_the_digest_stands_once_in_the_log(tmp_path: Path) -> None:
    """A run that begins again at step 0 writes it again; one that goes on finds it there."""
    for step in (0, 0, 3):
        log = Log(tmp_path, None, World(), step)
        if step == 0:
            log.write(0, "cache", {"cache_sha256": "ab"})
            log.write(1, "train", {"loss": 1.5})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["group"] for line in lines] == ["cache", "train"]
