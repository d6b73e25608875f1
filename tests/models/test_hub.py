"""Models by their names on the hub, out of a hub cache that is there already: no network."""

import os
from pathlib import Path

import pytest
from helpers import kdcache, make_model, make_tokenizer
from train.tiny import write_cache

from kdcache.dump.settings import TeacherConfig
from kdcache.dump.teacher import teacher_folder
from kdcache.errors import StudentError, TeacherError
from kdcache.models.cut import cut
from kdcache.report.evaluate import evaluate_students
from kdcache.store.cache import Cache, open_cache
from kdcache.students.making import make_student
from kdcache.students.settings import StudentConfig
from kdcache.train.export import made_from

NAME = "someone/small"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HF_HOME with two revisions of a model, main of two layers and v1 of one."""
    root = tmp_path_factory.mktemp("hf")
    repository = root / "hub" / "models--someone--small"
    (repository / "refs").mkdir(parents=True)
    for revision, commit, layers in (("main", "a" * 40, 2), ("v1", "b" * 40, 1)):
        (repository / "refs" / revision).write_text(commit)
        make_tokenizer(repository / "snapshots" / commit)
        make_model(repository / "snapshots" / commit, layers=layers)
    return root


@pytest.fixture(scope="module")
def cache(home: Path) -> Cache:
    tokenizer = home / "hub" / "models--someone--small" / "snapshots" / ("a" * 40)
    return open_cache(write_cache(home / "cache", examples=8, classes=320, tokenizer=tokenizer))


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))


@pytest.mark.usefixtures("hub")
def test_a_student_by_its_name(cache: Cache) -> None:
    assert make_student(StudentConfig(path=NAME), cache, 0).config.num_hidden_layers == 2
    assert make_student(StudentConfig(path=NAME, revision="v1"), cache, 0).config.num_hidden_layers == 1
    with pytest.raises(StudentError, match=r"got student.path someone/none, expected a folder .* nor a model that can"):
        make_student(StudentConfig(path="someone/none"), cache, 0)


@pytest.mark.usefixtures("hub")
def test_a_card_names_the_commit_that_the_student_was_made_from(home: Path) -> None:
    assert made_from(StudentConfig(path=NAME)) == f"`{NAME}`, revision {'a' * 40}"
    assert made_from(StudentConfig(path=NAME, revision="v1")) == f"`{NAME}`, revision {'b' * 40}"
    assert made_from(StudentConfig(path=str(home / "hub"))) == "`hub`"


@pytest.mark.usefixtures("hub")
def test_a_teacher_is_found_in_the_same_way(home: Path) -> None:
    assert Path(teacher_folder(TeacherConfig(path=NAME, revision="v1"))).name == "b" * 40
    with pytest.raises(TeacherError, match=r"got teacher someone/none, expected a folder"):
        teacher_folder(TeacherConfig(path="someone/none"))


@pytest.mark.usefixtures("hub")
def test_cut_and_eval_take_names(cache: Cache, tmp_path: Path) -> None:
    short = cut(NAME, [1], tmp_path / "short")
    assert (short / "tokenizer.json").is_file()
    rows = evaluate_students([NAME, str(short)], cache=cache.root.url, untrained=True, device="cpu")
    assert [row["name"] for row in rows[-3:]] == ["untrained small", "small", "short"]
    with pytest.raises(TeacherError, match="got teacher someone/none"):
        cut("someone/none", [0], tmp_path / "none")


def test_eval_on_the_command_line(home: Path, cache: Cache) -> None:
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    found = kdcache("eval", NAME, "--cache", cache.root.url, env=environment)
    assert found.returncode == 0, found.stderr
    assert "small" in found.stdout
    missing = kdcache("eval", "someone/none", "--cache", cache.root.url, env=environment)
    assert missing.returncode == 2
    assert missing.stderr.splitlines()[0].startswith("cache: ")
    assert len(missing.stderr.splitlines()) == 2
    assert "got student someone/none, expected a folder with config.json" in missing.stderr


def test_a_revision_goes_with_a_path() -> None:
    with pytest.raises(ValueError, match=r"got student.revision without student.path"):
        StudentConfig(config={"model_type": "llama"}, revision="v1")
