"""Two processes begin the same empty cache of a store in the same moment."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from remote.serving import Run, Store
from remote.test_commands import on_a_disk, plain


def begun(store: Store, config: Path, *settings: str) -> subprocess.Popen[str]:
    options = [part for setting in settings for part in ("-o", setting)]
    return subprocess.Popen(
        [sys.executable, "-m", "kdcache", "dump-logits", str(config), *options],
        env=store.env | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said = process.communicate(timeout=240)[1]
    assert "Traceback" not in said, said
    return process.returncode, said


@pytest.fixture
def together(store: Store) -> Iterator[None]:
    """The first two that ask to write header.json are let through at once, if they come within 10 s."""
    bar = threading.Barrier(2)

    def wait(method: str, path: str) -> str | None:
        if method == "PUT" and path.endswith("/header.json"):
            try:
                bar.wait(10)  # less than the client's patience
            except threading.BrokenBarrierError:
                pass
            else:
                bar.abort()
        return None

    store.proxy.fault = wait
    yield
    bar.abort()
    store.proxy.fault = None


@pytest.mark.usefixtures("together")
def test_with_other_settings_one_wins_and_one_is_refused(store: Store, run: Run, config: Path, tmp_path: Path) -> None:
    seeds = ("seed=1", "seed=2")
    both = [begun(store, config, seed) for seed in seeds]
    told = [ended(process) for process in both]
    assert sorted(status for status, _ in told) == [0, 1], told
    winner = next(number for number, (status, _) in enumerate(told) if status == 0)
    refused = [line for line in told[1 - winner][1].splitlines() if line.startswith("kdcache: ")]
    assert len(refused) == 1, told
    assert "seed" in refused[0]
    settings = [line for line in config.read_text().splitlines() if not line.startswith("seed:")]
    config.write_text("\n".join([*settings, seeds[winner].replace("=", ": ")]) + "\n")
    assert plain(store.files("cache/")) == on_a_disk(run, config, tmp_path / "cache")
    assert run("verify", f"{store.url}/cache")[0] == 0


@pytest.mark.usefixtures("together")
def test_with_the_same_settings_both_work(store: Store, run: Run, config: Path, tmp_path: Path) -> None:
    both = [begun(store, config), begun(store, config)]
    told = [ended(process) for process in both]
    assert [status for status, _ in told] == [0, 0], told
    assert plain(store.files("cache/")) == on_a_disk(run, config, tmp_path / "cache")
