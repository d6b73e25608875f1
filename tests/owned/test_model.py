"""A finished model takes the place of the old one; what somebody else put there stays."""

from pathlib import Path

import pytest

from kdcache.errors import ConfigError
from kdcache.owned.folder import Owner, scratch
from kdcache.owned.model import faults, foreign, swap_in


def make(run: Path, text: str) -> Path:
    made = scratch(run, "student")
    (made / "sub").mkdir(parents=True)
    (made / "config.json").write_text(text)
    (made / "sub" / "weights").write_text(text * 2)
    return made


def test_a_model_takes_the_place_of_its_forerunner(tmp_path: Path) -> None:
    for text in ("first", "second"):
        swap_in(make(tmp_path, text), tmp_path / "student", Owner("student"))
        assert (tmp_path / "student" / "config.json").read_text() == text
        assert foreign(tmp_path / "student") == faults(tmp_path / "student") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [".kdcache", "student"]
    assert not [*(tmp_path / ".kdcache").iterdir()]


@pytest.mark.parametrize("change", ["added", "edited", "unmarked", "linked"])
def test_a_folder_with_files_of_the_users_is_kept(
    tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    student = tmp_path / "student"
    swap_in(make(tmp_path, "first"), student, Owner("student"))
    if change == "added":
        (student / "notes.md").write_text("mine")
    elif change == "edited":
        (student / "config.json").write_text("mine")
    elif change == "unmarked":
        (student / ".kdcache" / "owner.json").unlink()
    else:
        (student / "link").symlink_to(tmp_path)
    before = {path: path.read_bytes() for path in student.rglob("*") if path.is_file()}
    swap_in(make(tmp_path, "second"), student, Owner("student"))
    assert (student / "config.json").read_text() == "second"
    kept = tmp_path / "student.kept-1"
    assert {student / path.relative_to(kept): path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before
    assert "did not write" in capsys.readouterr().err
    swap_in(make(tmp_path, "third"), student, Owner("student"))
    assert not (tmp_path / "student.kept-2").exists()


def test_a_link_or_a_file_in_the_place_stays(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    run = tmp_path / "run"
    made = make(run, "first")
    (run / "student").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match=r"a link, which stays; the new model is in .*student"):
        swap_in(made, run / "student", Owner("student"))
    assert (elsewhere / "mine").read_text() == "mine"
    assert (made / "config.json").read_text() == "first"
    (run / "student").unlink()
    (run / "student").write_text("mine")
    with pytest.raises(ConfigError, match="a file, which stays"):
        swap_in(made, run / "student", Owner("student"))
    (run / "student").unlink()
    swap_in(made, run / "student", Owner("student"))


def test_a_kill_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    """The old folder waits under .kdcache; the next export puts it away as if nothing had been."""
    student = tmp_path / "student"
    swap_in(make(tmp_path, "first"), student, Owner("student"))
    (student / "notes.md").write_text("mine")
    student.rename(scratch(tmp_path, "student.old"))
    swap_in(make(tmp_path, "second"), student, Owner("student"))
    assert (student / "config.json").read_text() == "second"
    assert (tmp_path / "student.kept-1" / "notes.md").read_text() == "mine"


def test_what_is_not_as_it_was_written_is_named(tmp_path: Path) -> None:
    student = tmp_path / "student"
    swap_in(make(tmp_path, "first"), student, Owner("student"))
    (student / "config.json").write_text("other")
    (student / "sub" / "weights").unlink()
    assert [line.removeprefix(f"{student}/") for line in faults(student)] == [
        "config.json has another sha256",
        "sub/weights is missing",
    ]
    (student / ".kdcache" / "owner.json").unlink()
    assert "no mark" in faults(student)[0]
