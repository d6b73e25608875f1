"""SIGKILL at every step of taking, renewing and leaving a lease: the next command has the folder at once."""

import fcntl
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from owned.killing import Killed, child, ended

from kdcache.errors import LockedError
from kdcache.owned import door, lease
from kdcache.owned.folder import abandon, claim
from kdcache.owned.lock import check_free, hold

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
EXTENT = [pytest.param(7, id="short"), pytest.param(1, id="long", marks=pytest.mark.long)]
"""Each how many-th step is tried."""
AT_ONCE_S = 3.0
"""A wait of door.NAMELESS_S, and room for a loaded machine."""


def take(folder: Path) -> None:
    with hold(folder, "train"):
        pass


def leave_unfinished(folder: Path) -> None:
    """A writer that is killed while it writes."""

    def work() -> None:
        held = hold(folder, "train")
        assert held.taken
        os.kill(os.getpid(), signal.SIGKILL)

    assert ended(child(work), 20) == -signal.SIGKILL


def leave_in_the_door(folder: Path) -> None:
    def work() -> None:
        with door.door(folder / ".kdcache" / "locks", folder):
            os.kill(os.getpid(), signal.SIGKILL)

    hold(folder, "train").release()
    assert ended(child(work), 20) == -signal.SIGKILL


def leave_nothing(folder: Path) -> None:
    pass


def supersede(folder: Path) -> None:
    with hold(folder, "cache-writer", identity="ab" * 8), hold(folder, "cache-writer", identity="cd" * 8):
        pass


def be_alone(folder: Path) -> None:
    with hold(folder, "dump-logits", identity="ab" * 8) as held, held.alone():
        pass


def renew(folder: Path) -> None:
    lease.LIFETIME_S = 0.2
    with hold(folder, "train"):
        time.sleep(0.2)


def begin_and_abandon(folder: Path) -> None:
    """What a command does with a folder in which it then makes nothing."""
    with hold(folder, "train"):
        claim(folder, "run")
    abandon(folder)


WORK = {
    "taking and leaving": (leave_nothing, take),
    "taking over": (leave_unfinished, take),
    "taking over in the door": (leave_in_the_door, take),
    "superseding": (leave_nothing, supersede),
    "alone among one's kind": (leave_nothing, be_alone),
    "renewing": (leave_nothing, renew),
    "looking": (leave_unfinished, check_free),
    "beginning and abandoning": (leave_nothing, begin_and_abandon),
}


@pytest.mark.parametrize("every", EXTENT)
@pytest.mark.parametrize("name", WORK)
def test_who_is_killed_locks_nobody_out(tmp_path: Path, name: str, every: int) -> None:
    """Also where nobody has waited for the dead process yet."""
    start, work = WORK[name]
    calm = _steps(tmp_path, start, work)
    runs, longest = 0, 0.0
    for at in range(1 + calm % every, calm + 1, every):
        for reaped in (True, False):
            folder = _new(tmp_path, start)
            pid = child(lambda folder=folder: work(folder), Killed(folder, at, tmp_path / "told"))  # type: ignore[misc]
            os.waitid(os.P_PID, pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
            begin = time.monotonic()
            with hold(folder, "train"):
                took = time.monotonic() - begin
                assert _leases(folder) == 1, f"{name}, step {at}"
            if not reaped:
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
            assert took < AT_ONCE_S, f"{name}, step {at}: {took:.1f} s"
            assert [*(folder / ".kdcache" / "locks").iterdir()] == [], f"{name}, step {at}"
            runs, longest = runs + 1, max(longest, took)
    print(f"\n{name}: {runs} kills, longest recovery {longest:.2f} s", file=sys.__stdout__)


@pytest.mark.parametrize("every", EXTENT)
def test_who_is_killed_while_it_takes_a_folder_over_by_force(tmp_path: Path, every: int) -> None:
    """The one before goes on, and is named, or the folder is free."""

    def work(folder: Path) -> None:
        hold(folder, "convert", force=True).release()

    with _writer(tmp_path / "calm"):
        calm = _counted(tmp_path, tmp_path / "calm", work)
    runs = 0
    for at in range(1 + calm % every, calm + 1, every):
        folder = tmp_path / str(at)
        with _writer(folder) as living:
            killed = Killed(folder, at, tmp_path / "told")
            assert ended(child(lambda folder=folder: work(folder), killed), 20) == -signal.SIGKILL  # type: ignore[misc]
            begin = time.monotonic()
            refused = _refused(folder)
            assert time.monotonic() - begin < AT_ONCE_S
            if refused is None:
                assert _leases(folder) == 0, "its lease was ended, which its next check tells it"
            else:
                assert f"process {living} on" in refused
            runs += 1
    print(f"\nby force: {runs} kills", file=sys.__stdout__)


@pytest.mark.parametrize("every", EXTENT)
@pytest.mark.parametrize("name", ["taking and leaving", "taking over", "taking over in the door"])
def test_of_three_at_once_one_is_killed_and_never_two_write(tmp_path: Path, name: str, every: int) -> None:
    start, _ = WORK[name]
    calm, longest, runs = _steps(tmp_path, start, take), 0.0, 0
    for at in range(1 + calm % every, calm + 1, every):
        folder = _new(tmp_path, start)
        witness, said = tmp_path / "witness", tmp_path / "said"
        said.write_text("")

        def work(folder: Path = folder, witness: Path = witness, said: Path = said) -> None:
            _write_alone(folder, witness, said)

        begin = time.monotonic()
        first = child(work, Killed(folder, at, tmp_path / "told"))
        others = [child(work), child(work)]
        status = [ended(pid, 40) for pid in (*others, first)]
        longest, runs = max(longest, time.monotonic() - begin), runs + 1
        told = said.read_text()
        assert status[:2] == [0, 0], f"{name}, step {at}: {status}\n{told}"
        # Who waits makes more steps than who is alone, and need not come to the one at which it were killed.
        assert status[2] in (0, -signal.SIGKILL), f"{name}, step {at}: {status}\n{told}"
        named = {int(pid) for pid in re.findall(r"process (\d+) on", told)}
        assert named <= {first, *others}, told
        take(folder)
        assert [*(folder / ".kdcache" / "locks").iterdir()] == []
    print(f"\nthree at once, {name}: {runs} kills, all through after {longest:.1f} s at most", file=sys.__stdout__)


def _write_alone(folder: Path, witness: Path, said: Path) -> None:
    """Hold the folder once, whoever else does meanwhile. The kernel's own lock tells whether another one does."""
    for _ in range(20):
        try:
            held = hold(folder, "train")
        except LockedError as refused:
            with said.open("a") as file:
                file.write(f"{refused}\n")
            continue
        with held, witness.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            time.sleep(0.02)
            held.check()
            fcntl.flock(file, fcntl.LOCK_UN)
        return
    raise AssertionError("refused 20 times")


def _refused(folder: Path) -> str | None:
    try:
        check_free(folder)
    except LockedError as refused:
        return str(refused)
    return None


def _new(place: Path, start: Callable[[Path], None]) -> Path:
    folder = place / "output"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    start(folder)
    return folder


def _steps(place: Path, start: Callable[[Path], None], work: Callable[[Path], object]) -> int:
    return _counted(place, _new(place, start), work)


def _counted(place: Path, folder: Path, work: Callable[[Path], object]) -> int:
    told = place / "told"
    assert ended(child(lambda: work(folder), Killed(folder, 0, told)), 20) == 0
    steps = int(told.read_text())
    assert steps > 10
    return steps


def _leases(folder: Path) -> int:
    locks = folder / ".kdcache" / "locks"
    return sum(path.name != "door" for path in locks.iterdir()) if locks.exists() else 0


@contextmanager
def _writer(folder: Path) -> Iterator[int]:
    """Another process that writes in a folder: its number."""
    reading, writing = os.pipe()

    def work() -> None:
        held = hold(folder, "train")
        assert held.taken
        os.write(writing, b".")
        time.sleep(600)

    pid = child(work)
    os.read(reading, 1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.owned.lock.PATIENCE_S", 0.3)
