"""The compiled loops give the same bits wherever, however and how often they are compiled."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kdcache.targets.compiled.classes import exp, exponentials, segment_sums
from kdcache.targets.compiled.lanes import LANES, exp64, log64, moments, product_moments
from kdcache.targets.compiled.rows import CompiledRows
from kdcache.targets.constants import CHUNK, SEGMENT
from kdcache.targets.sampled import Sampled
from kdcache.targets.sparse_codec import Block

MakeRows = Callable[..., Tensor]
SPECS = (Sampled(), Sampled(exact_top_k=0, samples=21, curve={"temperatures": [1.0]}))  # type: ignore[arg-type]


def digest(logits_PV: Tensor, threads: int = 1) -> str:
    """Of all that the loops make of these rows."""
    found = hashlib.sha256()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for spec in SPECS:
            uniform_P = torch.rand(len(logits_PV), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            block = CompiledRows(spec.plan).block(logits_PV, uniform_P)
            for field in fields(Block):
                found.update(np.ascontiguousarray(getattr(block, field.name)).tobytes())
    finally:
        torch.set_num_threads(before)
    return found.hexdigest()


def start(rows: Path, cache: Path, settings: Mapping[str, str]) -> subprocess.Popen[str]:
    """A process that prints the digest of these rows."""
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "XDG_CACHE_HOME": str(cache), **settings}
    return subprocess.Popen(
        [sys.executable, __file__, rows], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def printed(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out.strip()


def test_compiled_here_loaded_from_a_cache_or_on_another_processor(rows: MakeRows, tmp_path: Path) -> None:
    """Code that was compiled in the process and the same code from numba's cache differed in 94% of these sums."""
    logits_PV = torch.cat([rows("zipf", 200, 4999), rows("student_t", 100, 4999), rows("two_kinds", 100, 4999)])
    np.save(tmp_path / "rows.npy", logits_PV.numpy())
    (tmp_path / "no folder").touch()
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    cold = start(tmp_path / "rows.npy", tmp_path / "cache", {})
    without_cache = start(tmp_path / "rows.npy", tmp_path / "no folder", plain)
    found = [printed(cold), printed(without_cache), printed(start(tmp_path / "rows.npy", tmp_path / "cache", {}))]
    assert any((tmp_path / "cache").rglob("*.nbc"))
    assert {*found, digest(logits_PV), digest(logits_PV, threads=3)} == {found[0]}


def test_the_order_of_a_sum_is_the_one_that_is_written_down() -> None:
    @njit
    def sums(x: np.ndarray, e: np.ndarray) -> tuple[float, float, float]:
        return moments(x, e)

    @njit
    def inlined_beside_others(x: np.ndarray, e: np.ndarray, filled: np.ndarray) -> tuple[float, float, float]:
        product_moments(x, e, e, filled)
        total = moments(x, e)
        for i in range(x.size):
            filled[i] += x[i] * e[i]
        return total

    rng = np.random.default_rng(0)
    for _ in range(50):
        x = -rng.exponential(5, CHUNK).astype(np.float32)
        e = np.exp(x)
        found = sums(x, e)
        assert found == inlined_beside_others(x, e, np.empty_like(x))
        assert found[1] == in_lanes(e * x)
        assert found[2] == in_lanes(e)
        segments = np.empty(CHUNK // SEGMENT, np.float32)
        fill_segments(e, segments)
        assert segments.tolist() == [in_lanes(part) for part in e.reshape(-1, SEGMENT)]


@njit
def fill_segments(e: np.ndarray, sums: np.ndarray) -> None:
    segment_sums(e, SEGMENT, sums)


def in_lanes(numbers: np.ndarray) -> np.float32:
    """Their sum in the order of lanes.py, by numpy's single additions."""
    total = np.zeros(LANES, np.float32)
    for part in numbers.reshape(-1, LANES):
        total = total + part
    while len(total) > 1:
        total = total[: len(total) // 2] + total[len(total) // 2 :]
    return total[0]


def test_the_exponential_alone_and_in_vectors_is_the_same() -> None:
    @njit
    def alone(y: np.ndarray, e: np.ndarray) -> None:
        for i in range(y.size):
            if y[i] <= 0:  # in no vector
                e[i] = exp(y[i])
                if e[i] == 2:
                    return

    @njit
    def in_vectors(y: np.ndarray, e: np.ndarray) -> None:
        exponentials(y, np.float32(1.0), e)

    y = np.linspace(-90, 0, CHUNK).astype(np.float32)
    first, second = np.zeros_like(y), np.zeros_like(y)
    alone(y, first)
    in_vectors(y, second)
    np.testing.assert_array_equal(first, second)


def test_exp_and_log_in_float64_are_within_two_units() -> None:
    @njit
    def both(x: np.ndarray, exps: np.ndarray, logs: np.ndarray) -> None:
        for i in range(x.size):
            exps[i] = exp64(x[i])
            logs[i] = log64(max(exps[i], 2.3e-308))

    x = np.concatenate([np.linspace(-708, 700, 200_001), np.linspace(-1, 1, 200_001)])
    exps, logs = np.empty_like(x), np.empty_like(x)
    both(x, exps, logs)
    np.testing.assert_allclose(exps, np.exp(x.astype(np.longdouble)).astype(np.float64), rtol=2.3e-16 * 2)
    np.testing.assert_allclose(logs, np.log(exps), rtol=2.3e-16 * 2)
    both(np.array([-709.0, 0.0]), exps, logs)
    assert exps[:2].tolist() == [0.0, 1.0]
    assert logs[1] == 0


def test_the_largest_logit_is_found_among_all_there_is() -> None:
    """−0, infinities, NaN, and numbers next to the largest float32."""
    logits_RV = torch.randn(8, 700, generator=torch.Generator().manual_seed(0))
    logits_RV[0] = -0.0
    logits_RV[1, 699] = torch.inf
    logits_RV[2, 64] = -torch.inf
    logits_RV[3, 5] = torch.nan
    logits_RV[4, 5] = -torch.tensor(torch.nan)
    logits_RV[5, 200] = torch.finfo(torch.float32).max
    logits_RV[6, 200] = torch.finfo(torch.float32).min
    block = CompiledRows(Sampled().plan).block(logits_RV, torch.rand(8, dtype=torch.float64))
    assert np.isnan(block.maximum_R).tolist() == [False, True, True, True, True, False, False, False]
    sound = [0, 5, 6, 7]
    np.testing.assert_array_equal(block.maximum_R[sound], logits_RV[sound].amax(1).numpy())


if __name__ == "__main__":
    print(digest(torch.from_numpy(np.load(sys.argv[1]))))
