"""SIGKILL at random moments, restarts with other world sizes, and real launchers: the same cache in the end.

The killed processes are real ones; they are forked from a parent that has torch and transformers loaded, so that a
restart costs milliseconds and the kills fall into the work, not into imports.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers import files_of, fork_rank, kdcache
from store.making import BACKENDS

from kdcache.dump.settings import DumpConfig
from kdcache.launcher import World
from kdcache.store.files import Root

KILLS = 10


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.parametrize("backend", BACKENDS)
def test_killed_ranks_and_changing_world_sizes(
    make_config: Callable[..., DumpConfig], tmp_path: Path, backend: str
) -> None:
    calm = make_config(tmp_path / "calm", backend=backend, corpus={"unit_rows": 3})
    started = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(fork_rank(calm, World()), 0)[1]) == 0
    whole = time.monotonic() - started
    rough = make_config(tmp_path / "rough", backend=backend, corpus={"unit_rows": 3})
    rng, kills = random.Random(7), 0
    while kills < KILLS:
        world_size = rng.choice([1, 2, 3])
        pids = [fork_rank(rough, World(r, world_size)) for r in range(world_size)]
        time.sleep(rng.uniform(0.05, 0.35) * whole)
        victim = rng.choice(pids)
        os.kill(victim, signal.SIGKILL)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        if Root(str(tmp_path / "rough")).exists("cache.json"):
            (tmp_path / "rough" / "cache.json").unlink()
            for unit in rng.sample(range(40), 25):  # finished too early to be killed again: lose some shards
                (tmp_path / "rough" / "shards/000" / f"{unit:06d}.json").unlink()
        kills += statuses[pids.index(victim)] == -signal.SIGKILL
    assert os.waitstatus_to_exitcode(os.waitpid(fork_rank(rough, World()), 0)[1]) == 0
    assert files_of(tmp_path / "rough") == files_of(tmp_path / "calm")


@pytest.mark.launch
def test_real_launchers_give_the_same_cache(make_config: Callable[..., DumpConfig], tmp_path: Path) -> None:
    def written(name: str) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(make_config(tmp_path / name).model_dump(mode="json")))
        return path

    bare = kdcache("dump-logits", written("bare"))
    assert bare.returncode == 0, bare.stderr
    by_hand = [kdcache("dump-logits", written("hand"), "--rank", r, "--world-size", 2) for r in range(2)]
    assert [run.returncode for run in by_hand] == [0, 0], by_hand[1].stderr
    launchers = {
        "deepspeed": ["deepspeed.launcher.runner", "--num_gpus", "2", "--no_local_rank", "--module"],
        "torchrun": ["torch.distributed.run", "--nproc-per-node", "2", "-m"],
    }
    for name, launcher in launchers.items():
        command = [sys.executable, "-m", *launcher, "kdcache", "dump-logits", str(written(name))]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert ran.returncode == 0, ran.stderr
    expected = files_of(tmp_path / "bare")
    for name in ("hand", *launchers):
        assert files_of(tmp_path / name) == expected
