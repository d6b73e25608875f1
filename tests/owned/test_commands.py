"""Every command that writes a folder, on folders that are not its own: refused, exit status 2, nothing touched."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import Run, make_model, make_tokenizer, sentences, write_jsonl
from train.tiny import train_settings, write_cache

from kdcache.owned.folder import OWNER, claim

Place = Callable[[Path], Path]


def tree(folder: Path) -> dict[str, str]:
    """Everything under a folder: the digest of each file, the target of each link, each folder's presence."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands read: a teacher, a corpus and a cache of a language model."""
    folder = tmp_path_factory.mktemp("made")
    make_tokenizer(folder / "teacher")
    make_model(folder / "teacher", vocab_size=330)
    (folder / "data").mkdir()
    write_jsonl(folder / "data" / "corpus.jsonl", sentences(20))
    write_cache(folder / "cache")
    return folder


@pytest.fixture
def room(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may destroy."""
    shutil.copytree(made, tmp_path / "room")
    return tmp_path / "room"


def arguments(command: str, room: Path, output: Path) -> list[str]:
    if command == "convert":
        return ["convert", str(room / "cache"), str(output), "--to", "arrow"]
    if command == "cut":
        return ["cut", str(room / "teacher"), "--layers", "0", "--out", str(output)]
    settings: dict[str, Any] = {
        "output": str(output),
        "corpus": {"paths": str(room / "data" / "corpus.jsonl"), "format": "jsonl", "unit_rows": 10},
        "teacher": {"path": str(room / "teacher"), "dtype": "float32"},
        "task": {"sequence_length": 64},
        "record": {"exact_top_k": 8},
    }
    if command == "train":
        settings = train_settings(room / "cache", output)
    config = room.parent / f"{command}.yaml"
    config.write_text(yaml.safe_dump(settings))
    return [command, str(config)]


def of_the_user(room: Path) -> Path:
    """A folder as a user has it, with names that kdcache uses too."""
    folder = room / "thesis"
    for name in ("work/notes.txt", "student/config.json", "checkpoints/step-00000005-best/weights", "log.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    return folder


def linked(room: Path) -> Path:
    (room / "link").symlink_to(of_the_user(room))
    return room / "link"


def dangling(room: Path) -> Path:
    (room / "link").symlink_to(room / "nowhere")
    return room / "link"


def a_file(room: Path) -> Path:
    (room / "file").write_text("mine")
    return room / "file"


def of_another_kind(room: Path) -> Path:
    claim(room / "students", "student")
    (room / "students" / "config.json").write_text("{}")
    return room / "students"


def stolen_mark(room: Path) -> Path:
    folder = of_the_user(room)
    (folder / ".kdcache").symlink_to(room / "data")
    return folder


PLACES: dict[str, Place] = {
    "a user's folder": of_the_user,
    "a link to a user's folder": linked,
    "a dangling link": dangling,
    "a file": a_file,
    "below a file": lambda room: a_file(room) / "out",
    "an output of another kind": of_another_kind,
    "a folder whose .kdcache is a link": stolen_mark,
    "the teacher": lambda room: room / "teacher",
    "the corpus' folder": lambda room: room / "data",
    "above all": lambda room: room,
    "inside a cache": lambda room: room / "cache" / "below",
    "inside a cache's shards": lambda room: room / "cache" / "shards" / "below",
}


@pytest.mark.parametrize("command", ["dump-logits", "train", "convert", "cut"])
@pytest.mark.parametrize("place", PLACES)
def test_a_folder_that_is_not_ours_is_refused(room: Path, command: str, place: str, run: Run) -> None:
    output = PLACES[place](room)
    before = tree(room)
    status, _, err = run(*arguments(command, room, output))
    said = err.strip().splitlines()
    assert tree(room) == before
    assert (status, len(said)) == (2, 1), said
    assert "expected" in said[0]


@pytest.mark.parametrize("command", ["dump-logits", "convert", "cut"])
def test_force_writes_beside_what_is_there(room: Path, command: str, run: Run) -> None:
    output = of_the_user(room)
    before = tree(output)
    status, _, err = run(*arguments(command, room, output), "--force")
    assert status == 0
    assert "--force: " in err
    after = tree(output)
    assert {name: after.get(name) for name in before} == before
    assert OWNER in after
    made = {"dump-logits": "cache.json", "convert": "cache.json", "cut": "config.json"}[command]
    assert made in after


def test_a_cache_without_hidden_files_is_read_and_gone_on_with(room: Path, run: Run) -> None:
    """As it is after a download or a copy."""
    given = arguments("dump-logits", room, room / "mine")
    assert run(*given)[0] == 0
    shutil.rmtree(room / "mine" / ".kdcache")
    before = tree(room / "mine")
    assert run("verify", str(room / "mine"))[0] == 0
    assert run("inspect", str(room / "mine"))[0] == 0
    assert tree(room / "mine") == before, "reading does not write"
    shard = next((room / "mine" / "shards/000").glob("000001.z*"))
    shard.unlink()
    assert run(*given)[0] == 0
    assert shard.is_file()
    assert (room / "mine" / OWNER).is_file()


def test_a_second_cut_replaces_its_own_files_alone(room: Path, run: Run) -> None:
    out = room / "cut"
    given = arguments("cut", room, out)
    assert run(*given)[0] == 0
    first = tree(out)
    assert run(*given)[0] == 0
    assert tree(out) == first
    layers = given.index("--layers") + 1
    other = [*given[:layers], "1", *given[layers + 1 :]]
    status, _, err = run(*other)
    assert status == 2
    assert "holds a model already" in err
    (out / "notes.md").write_text("mine")
    assert run(*given, "--force")[0] == 0
    after = tree(out)
    assert after.pop("notes.md") == hashlib.sha256(b"mine").hexdigest()
    assert after.keys() == first.keys()
    (out / "config.json").write_text("{} edited by hand")
    before = tree(out)
    status, _, err = run(*given, "--force")
    assert status == 2
    assert "config.json is in the way and not ours" in err
    assert {name: digest for name, digest in tree(out).items() if "locks" not in name} == {
        name: digest for name, digest in before.items() if "locks" not in name
    }
