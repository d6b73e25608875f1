"""launch/bench_gpu.sh runs as it is on a CPU, tiny."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]


@pytest.mark.launch
def test_the_gpu_bench_runs_on_a_cpu(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    command = ["bash", str(REPO / "launch" / "bench_gpu.sh"), str(page), "--tiny"]
    settings = {**os.environ, "KDCACHE_PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = page.read_text()
    assert said in done.stdout
    for wanted in ("not to be quoted", "kdcache dump-logits", "forward KL from the cache", "per position", "loss | ms"):
        assert wanted in said
    assert "not run" not in said, said
