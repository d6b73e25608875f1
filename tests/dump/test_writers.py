"""Two dumps that want one folder: real processes that begin together, and real SIGKILL."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import files_of

from kdcache.disk import Disk
from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.errors import CacheError, LockedError
from kdcache.launcher import World
from kdcache.store.cache import begun_header, open_cache
from kdcache.store.files import Root
from kdcache.store.verify import verify

MakeConfig = Callable[..., DumpConfig]
RACES = 6

DUMPER = """
import sys, time
from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.errors import KdcacheError
from kdcache.launcher import World
from kdcache.owned import lock

lock.PATIENCE_S = 0.5
print("@ready", flush=True)
for line in sys.stdin:
    at, rank, size, config = line.split(" ", 3)
    time.sleep(max(0.0, float(at) - time.time()))
    try:
        run_dump(DumpConfig.model_validate_json(config), World(int(rank), int(size)))
        print("@0 done", flush=True)
    except KdcacheError as error:
        print(f"@{error.exit_status}", type(error).__name__, error, flush=True)
"""


@contextmanager
def dumpers(count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that have imported everything and wait for work."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", DUMPER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for _ in range(count)
    ]
    try:
        for process in started:
            assert answer(process) == "ready"
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def ask(process: subprocess.Popen[str], config: DumpConfig, *, at: float = 0.0, rank: int = 0, size: int = 1) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{at} {rank} {size} {config.model_dump_json()}\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    """The next line that is meant for the test: a dump says what it made on the same output."""
    assert process.stdout is not None
    return next(line[1:].strip() for line in process.stdout if line.startswith("@"))


def test_dumps_with_other_seeds_race_and_one_cache_comes_of_it(make_config: MakeConfig, tmp_path: Path) -> None:
    """It was: both exit 0 and nobody has a cache. And writers of one configuration share the work."""
    with dumpers(2) as processes:
        for race in range(RACES):
            output, start = tmp_path / f"race-{race}", time.time() + 0.2
            for seed, process in enumerate(processes):
                ask(process, make_config(output, seed=seed), at=start + 0.02 * race * seed)
            told = [answer(process) for process in processes]
            assert sorted(line.split()[0] for line in told) == ["0", "1"], told
            loser = next(line for line in told if not line.startswith("0"))
            assert "LockedError" in loser or "was begun with seed" in loser
            assert "LockedError" not in loser or " process " in loser
            winner = next(seed for seed, line in enumerate(told) if line.startswith("0"))
            assert open_cache(output).manifest.header.seed == winner
            assert verify(output) == []
        start = time.time() + 0.2
        for rank, process in enumerate(processes):
            ask(process, make_config(tmp_path / "shared"), at=start, rank=rank, size=2)
        assert [answer(process) for process in processes] == ["0 done"] * 2
    run_dump(make_config(tmp_path / "alone"), World())
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "alone")


def test_a_killed_dump_gives_the_folder_up_at_once(make_config: MakeConfig, tmp_path: Path) -> None:
    """Killed before its first shard, another configuration begins anew within a second or so."""
    output = tmp_path / "cache"
    slow = make_config(output, seed=1, corpus={"unit_rows": 120}, compute={"batch_tokens": 1})
    with dumpers(1) as (process,):
        ask(process, slow)
        deadline = time.monotonic() + 60
        while begun_header(Root(output)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)  # before its first shard, which a fast machine has soon
        with pytest.raises(LockedError, match=rf"written by kdcache dump-logits, process {process.pid} on .*--force"):
            run_dump(make_config(output, seed=2), World())
        assert begun_header(Root(output)).seed == 1  # type: ignore[union-attr]
        assert not Root(output).list("shards/000")
        process.send_signal(signal.SIGKILL)
        start = time.monotonic()
        run_dump(make_config(output, seed=2), World())
        assert time.monotonic() - start < 30
    assert open_cache(output).manifest.header.seed == 2


def test_a_rank_whose_own_shard_does_not_stand_says_why(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was: "rank 0 of 1 is done; the other ranks still make 1 of 12 shards", exit status 0."""
    output = tmp_path / "cache"
    config = make_config(output)
    run_dump(config, World())
    record = output / "shards/000" / "000003.json"
    sound = files_of(output)
    record.write_bytes(b"{")
    run_dump(config, World())
    said = capsys.readouterr().err
    assert said.count("000003.json is damaged: its shard counts as missing and is made again") == 1
    assert files_of(output) == sound

    from kdcache.dump import run as module

    finish = module.finish

    def meanwhile(*given: object) -> None:
        record.unlink()
        finish(*given)  # type: ignore[arg-type]

    (output / "cache.json").unlink()
    monkeypatch.setattr(module, "finish", meanwhile)
    with pytest.raises(
        CacheError, match=r"1 shard of this rank cannot stay.*000003.json is gone.*run the same command"
    ):
        run_dump(config, World())
    assert "is done; the other ranks" not in capsys.readouterr().err
    monkeypatch.undo()
    run_dump(config, World())
    assert files_of(output) == sound


def test_a_record_that_cannot_be_read_is_an_error(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "cache"
    config = make_config(output)
    run_dump(config, World())
    (output / "cache.json").unlink()
    before, read = files_of(output), Disk.read

    def failing(self: Disk, name: str, *rest: Any, **named: Any) -> bytes:
        if name == "shards/000/000003.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(self, name, *rest, **named)

    monkeypatch.setattr(Disk, "read", failing)
    with pytest.raises(CacheError, match=r"cannot read .*000003.json: Input/output error"):
        run_dump(config, World())
    monkeypatch.undo()
    assert files_of(output) == before
