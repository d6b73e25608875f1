"""The compiled loops against the plain path, which is written for every device."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from numba import njit
from torch import Tensor

import kdcache
from kdcache.targets.compiled.classes import exp
from kdcache.targets.compiled.rows import CompiledRows, load_records
from kdcache.targets.curve_spec import CurveSpec
from kdcache.targets.kind import RecordKind
from kdcache.targets.rows import Rows
from kdcache.targets.sampled import Sampled
from kdcache.targets.sparse_codec import Block
from kdcache.targets.top_k import TopK

SPECS = {
    "default": Sampled(),
    "other nodes": Sampled(curve=CurveSpec(nodes=(0.0, 0.01, 0.3, 1.0, 1.1, 7.0, 20.0))),
    "two proposals": Sampled(proposal_temperatures=(1.0, 2.0), curve=CurveSpec(nodes=(0.0, 0.5, 1.0))),
    "sampled only": Sampled(exact_top_k=0, samples=21, curve=CurveSpec(temperatures=(1.0,))),
    "top-k": TopK(k=700),
    "one draw": Sampled(exact_top_k=1, samples=1),
}
MakeRows = Callable[..., Tensor]


def both(logits_PV: Tensor, spec: RecordKind) -> tuple[Block, Block]:
    uniform_P = torch.rand(len(logits_PV), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    compiled = CompiledRows(spec.plan).block(logits_PV, uniform_P)
    return compiled, Rows(logits_PV.shape[1], spec.plan, logits_PV.device).block(logits_PV, uniform_P)


def check_alike(compiled: Block, plain: Block, spec: RecordKind) -> None:
    for field in fields(Block):
        assert getattr(compiled, field.name).dtype.kind == getattr(plain, field.name).dtype.kind
    for name in ("maximum_R", "num_certain_R", "tail_count_R"):
        np.testing.assert_array_equal(getattr(compiled, name), getattr(plain, name), err_msg=name)
    tail_R = plain.tail_count_R > 0
    np.testing.assert_array_equal(compiled.tail_top_R[tail_R], plain.tail_top_R[tail_R])
    for j, beta in enumerate(spec.curve.betas):
        for i in range(3 if beta > 0 else 2):
            np.testing.assert_allclose(
                compiled.sums_RJ3[tail_R, j, i], plain.sums_RJ3[tail_R, j, i], 3e-6 * (1 + 2 * beta), 1e-9
            )
    # A draw that falls next to the border of a class may go to either side.
    entries = [entries_of(block) for block in (compiled, plain)]
    assert len(entries[0].keys() ^ entries[1].keys()) <= 0.002 * len(entries[1]) + 2
    for entry in entries[0].keys() & entries[1].keys():
        assert entries[0][entry] == entries[1][entry]


def entries_of(block: Block) -> dict[tuple[int, int], float]:
    rows = np.repeat(np.arange(len(block.counts_R)), block.counts_R)
    return dict(zip(zip(rows.tolist(), block.ids_E.tolist(), strict=True), block.relative_E.tolist(), strict=True))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("V", [1, 3, 64, 511, 513, 1000, 5003, 49_152])
def test_blocks_agree(rows: MakeRows, name: str, V: int) -> None:
    for shape in ("zipf", "student_t", "normal", "two_kinds"):
        logits_PV = rows(shape, 5 if V > 10_000 else 40, V)
        check_alike(*both(logits_PV, SPECS[name]), SPECS[name])


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("V", [7, 600, 3000])
def test_masked_classes_sure_teachers_and_ties_agree(rows: MakeRows, name: str, V: int) -> None:
    logits_PV = rows("normal", 24, V)
    logits_PV[:, ::3] = -1e9
    logits_PV[3, 1:] = torch.finfo(torch.float32).min
    logits_PV[4] = 0.0
    logits_PV[5] = logits_PV[5].clamp(min=-300).round()
    logits_PV[6:9] -= 200.0
    logits_PV[6:9, 1] = 0.0
    logits_PV[7, 2:] = -250.0
    logits_PV[9] = logits_PV[9].clamp(min=-100.0) * 2.39
    check_alike(*both(logits_PV, SPECS[name]), SPECS[name])


def test_the_exponential_is_as_good_as_float32() -> None:
    @njit
    def fill(y: np.ndarray, e: np.ndarray) -> None:
        for i in range(y.size):
            e[i] = exp(y[i])

    y = np.linspace(-86.9, 0, 1_000_001).astype(np.float32)
    e = np.empty_like(y)
    fill(y, e)
    np.testing.assert_allclose(e, np.exp(y.astype(np.float64)), rtol=1.2e-7)
    fill(np.array([-87.5, -1e30], np.float32), e)
    assert (e[:2] < 2e-38).all()


def test_compiled_code_is_kept_in_the_users_folder() -> None:
    folder = Path(load_records().stats.cache_path)
    assert folder.is_dir()
    assert not folder.is_relative_to(Path(kdcache.__file__).parent)
