"""Few file descriptors, a full or unwritable folder for temporary files, and files that one may not read."""

import contextlib
import os
import resource
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.conftest import Starter, dump_settings, train_settings_of, written
from faults.failing import forked, small_disk
from helpers import files_of

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


def few_files(count: int = 64) -> Callable[[], object]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def test_dump_and_verify_with_few_descriptors(home: Path, start: Starter) -> None:
    """60 shards, 64 descriptors."""
    folder = start()
    settings = dump_settings(home, folder)
    settings["corpus"]["unit_rows"] = 1
    config = written(folder, settings)
    assert forked(["dump-logits", config], folder, prepare=few_files()).status == 0
    assert len(list((folder / "shards/000").iterdir())) == 60
    for command in (["verify", folder], ["verify", folder, "--repair"], ["dump-logits", config]):
        outcome = forked(command, folder, prepare=few_files())
        assert outcome.status == 0, outcome.out


def test_too_few_descriptors_are_told_in_one_line(home: Path, start: Starter) -> None:
    folder = start()
    config = written(folder, dump_settings(home, folder))
    held: list[int] = []

    def none_left() -> None:
        few_files(max(40, 1 + max(map(int, os.listdir("/proc/self/fd")))))()
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        os.close(held.pop())

    outcome = forked(["dump-logits", config], folder, prepare=none_left)
    assert outcome.status in (1, 2), outcome.out
    assert "Traceback" not in outcome.out, outcome.out
    assert len(outcome.lines) == 1, outcome.out
    assert forked(["dump-logits", config], folder).status == 0
    assert files_of(folder) == files_of(home / "cache")


def of_temporary_files(folder: Path) -> Callable[[], object]:
    def prepare() -> None:
        os.environ["TMPDIR"] = str(folder)
        tempfile.tempdir = None

    return prepare


@pytest.mark.parametrize("fault", ["full", "missing"])
def test_a_folder_for_temporary_files_that_takes_none(home: Path, start: Starter, tmp_path: Path, fault: str) -> None:
    """A dump with a full TMPDIR says so in one line and goes on with room; one that is not there is another's turn."""
    folder = start()
    config = written(folder, dump_settings(home, folder))
    with small_disk(tmp_path / "small", 8) as small:
        (small / "x").write_bytes(b"x" * 4096)
        place = small if fault == "full" else tmp_path / "not-there"
        outcome = forked(["dump-logits", config], folder, prepare=of_temporary_files(place))
        assert "Traceback" not in outcome.out, outcome.out
        if outcome.status:
            assert outcome.status in (1, 2)
            assert len(outcome.lines) == 1, outcome.out
    assert forked(["dump-logits", config], folder).status == 0
    assert files_of(folder) == files_of(home / "cache")


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that another user may enter."""
    place = Path(tempfile.mkdtemp(prefix="kdcache-faults-"))
    place.chmod(0o777)
    yield place
    shutil.rmtree(place)


def as_nobody() -> None:
    os.environ["HOME"] = "/tmp"
    os.setgid(65534)
    os.setuid(65534)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_file_of_the_teacher_that_one_may_not_read(home: Path, open_place: Path, name: str) -> None:
    shutil.copytree(home / "teacher", open_place / "teacher")
    shutil.copy(home / "corpus.jsonl", open_place / "corpus.jsonl")
    for path in open_place.rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o644)
    (open_place / "teacher" / name).chmod(0o600)
    folder = open_place / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    config = written(folder, dump_settings(open_place, folder))
    config.chmod(0o644)
    outcome = forked(["dump-logits", config], folder, prepare=as_nobody)
    assert outcome.status in (1, 2), outcome.out
    assert "Traceback" not in outcome.out, outcome.out
    assert len(outcome.lines) == 1, outcome.out
    assert str(open_place / "teacher") in outcome.lines[0]


def test_exported_files_may_be_read_like_any_new_file(home: Path, start: Starter) -> None:
    folder = start()
    old = os.umask(0o022)
    try:
        assert forked(["cut", home / "teacher", "--layers", "0", "--out", folder / "model"], folder).status == 0
        outcome = forked(["train", written(folder / "run", train_settings_of(home, folder / "run"))], folder)
        assert outcome.status == 0, outcome.out
    finally:
        os.umask(old)
    for model in ("model", "run/student"):
        modes = {
            path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in (folder / model).iterdir() if path.is_file()
        }
        assert {*modes.values()} == {"0o644"}, modes
