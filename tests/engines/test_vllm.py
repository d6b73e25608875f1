"""A teacher that a real vLLM runs: the records are those of the same teacher run by transformers.

Each test starts vLLM once or twice, 35 s each time: what it shares with the other engine is in tests/dump.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import kdcache as library

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


def kl_of(expected: Path, found: Path) -> tuple[float, float]:
    """Mean and largest KL of dense records, in nats at T = 1."""
    ours, theirs = (library.open_cache(path) for path in (found, expected))
    kls = []
    for place in range(len(ours)):
        p, q = (cache.read(place, place + 1).targets().dense_log_probs(1.0).double() for cache in (theirs, ours))
        kls.append((p.exp() * (p - q)).sum(-1))
    every_P = torch.cat(kls)
    return float(every_P.mean()), float(every_P.max())


def test_records_are_those_of_transformers(tmp_path: Path, settings, kdcache) -> None:
    """Exactly, as far as float32 goes: the whole distribution, the certain entries, and a factored record."""
    for engine, folder in (("transformers", "hf"), (None, "vllm")):
        given = {} if engine is None else {"engine": engine}
        for kind in ("dense", "sampled", "factored"):
            record = {"kind": kind} | ({"rank": 16} if kind == "factored" else {})
            kdcache("dump-logits", settings(tmp_path / f"{folder}-{kind}", record=record, **given))
    mean, worst = kl_of(tmp_path / "hf-dense", tmp_path / "vllm-dense")
    print(
        f"\nKL of vLLM's records from transformers', float32: mean {mean:.2g}, at most {worst:.2g}", file=sys.__stdout__
    )
    assert worst <= 1e-6
    for kind in ("sampled", "factored"):
        ours, theirs = (library.open_cache(tmp_path / f"{name}-{kind}") for name in ("vllm", "hf"))
        a, b = (cache.read(0, len(cache)).targets() for cache in (ours, theirs))
        if kind == "sampled":
            assert a.num_certain_P.tolist() == b.num_certain_P.tolist()
            certain = torch.arange(a.ids_PE.shape[1]) < a.num_certain_P[:, None]
            assert (a.ids_PE[certain] == b.ids_PE[certain]).all()
        assert (a.log_partition(1.0) - b.log_partition(1.0)).abs().max() < 2e-3


def test_a_dump_that_was_killed_goes_on_with_the_same_bytes(tmp_path: Path, settings, kdcache) -> None:
    calm = settings(tmp_path / "calm")
    kdcache("dump-logits", calm)
    killed = settings(tmp_path / "killed")
    process = subprocess.Popen([sys.executable, "-m", "kdcache", "dump-logits", str(killed)], start_new_session=True)
    while not [*(tmp_path / "killed").glob("shards/*/*.json")]:
        assert process.poll() is None, "it ended before a shard was there"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = kdcache("dump-logits", killed)
    assert "log-probabilities are vLLM's own" not in done.stderr, "a begun cache says how its teacher is run"
    shards = sorted(path.relative_to(tmp_path / "calm") for path in (tmp_path / "calm" / "shards").rglob("*.*"))
    assert all((tmp_path / "calm" / s).read_bytes() == (tmp_path / "killed" / s).read_bytes() for s in shards)
    assert "loading" not in kdcache("dump-logits", calm).stderr
    checked = kdcache("verify", tmp_path / "calm", "--teacher", "--sample", 4)
    assert "KL" in checked.stdout


def test_half_precision_is_no_further_off_than_transformers(tmp_path: Path, settings, kdcache) -> None:
    kdcache("dump-logits", settings(tmp_path / "whole", engine="transformers", record={"kind": "dense"}))
    found = {}
    for engine in ("transformers", {"kind": "vllm", "arguments": {"enforce_eager": True}}):
        name = engine if isinstance(engine, str) else "vllm"
        given = {"engine": engine, "dtype": "bfloat16", "record": {"kind": "dense"}}
        kdcache("dump-logits", settings(tmp_path / name, **given))
        found[name] = kl_of(tmp_path / "whole", tmp_path / name)
    print(f"\nKL of bfloat16 from float32, mean and largest: {found}", file=sys.__stdout__)
    assert found["vllm"][0] < 3 * found["transformers"][0]


def test_a_teacher_that_vllm_does_not_load(tmp_path: Path, settings, kdcache, smollm2_folder: Path) -> None:
    broken = shutil.copytree(smollm2_folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    path = settings(tmp_path / "out")
    done = kdcache("dump-logits", path, "-o", f"teacher.path={broken}", status=1)
    assert done.stderr.strip().splitlines()[-1].startswith("kdcache: ")
    assert "Traceback" not in done.stderr.splitlines()[-1]
