"""The launches that the tests of this folder share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from train.tiny import write_cache

from kdcache.train.distributed import free_port

HERE = Path(__file__).parent


def launch(ranks: int, *arguments: object) -> None:
    command = [sys.executable, "-m", "deepspeed.launcher.runner", f"--num_gpus={ranks}", f"--master_port={free_port()}"]
    environment = os.environ | {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE.parent)]),
    }
    done = subprocess.run(
        [*command, "--no_local_rank", str(HERE / "launched.py"), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What launched.py left: two launches for all tests of this folder."""
    root = tmp_path_factory.mktemp("launched")
    write_cache(root / "cache")
    write_cache(root / "held-out", seed=1, examples=11)
    write_cache(root / "small", seed=3, examples=10)
    write_cache(root / "sparse", seed=2, examples=64, unsupervised=0.8)
    launch(2, root, "stages", "long", "half", "mixture", "reading", "gradients", "resume", "several")
    launch(1, root, "reading", "gradients", "alone", "again", "sources", "resume", "several", "failures")
    return root
