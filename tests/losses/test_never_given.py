"""Divergences of sparse records where nothing but classes that the teacher never gives is outside the entries.

The compared classes are a partition of all classes there too, so that the student's mass outside the entries counts.

P positions, V classes, C compared classes.
"""

from typing import Any

import pytest
import torch
from losses.conftest import FORMULAS
from losses.test_kinds import MERGING
from torch import Tensor

from kdcache.losses.distillation import distillation_loss
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.losses.unfused import loss_of_logits
from kdcache.targets.compress import compress
from kdcache.targets.never import LOG_NEVER
from kdcache.targets.record import TeacherTargets

V, K = 12, 6
SPECS = {
    "top-k": {"kind": "top_k", "k": K, "logit_dtype": "float32"},
    "sampled": {"kind": "sampled", "exact_top_k": K, "samples": 3, "logit_dtype": "float32"},
}
FINITE = [
    ("tvd", {}),
    ("jsd", {}),
    ("jsd", {"beta": 0.1}),
    ("skew_kl", {}),
    ("skew_reverse_kl", {}),
    ("alpha_beta", {"alpha": 0.3, "beta": 0.7}),
]
"""f-divergences that are finite where p is 0: merging classes that the teacher never gives changes nothing."""


def rows(classes: int, *given: int) -> Tensor:
    """A row for each number of given classes; the others have −inf."""
    rng = torch.Generator().manual_seed(3)
    logits_PV = torch.randn(len(given), classes, generator=rng) * 2
    for row, count in enumerate(given):
        logits_PV[row, torch.randperm(classes, generator=rng)[count:]] = -torch.inf
    return logits_PV


def on_a_partition(
    targets: TeacherTargets, student_PV: Tensor, temperature: float, kind: str, parameters: dict[str, float]
) -> Tensor:
    """The formula on the certain entries and, where classes are left, all of these as one; float64, [P]."""
    log_tail_P = targets.log_tail_mass(temperature).double().clamp(min=LOG_NEVER)
    values = []
    for row, log_q_V in enumerate((student_PV.double() / temperature).log_softmax(-1)):
        ids = targets.ids_PE[row, : targets.num_certain_P[row]]
        rest_V = torch.ones(len(log_q_V), dtype=torch.bool).scatter(0, ids, False)
        log_p_C, log_q_C = targets.log_probs(temperature)[row, : len(ids)].double(), log_q_V[ids]
        if rest_V.any():
            log_p_C = torch.cat([log_p_C, log_tail_P[row : row + 1]])
            log_q_C = torch.cat([log_q_C, log_q_V[rest_V].logsumexp(0)[None]])
        values.append(FORMULAS[kind](log_p_C, log_q_C, **parameters).sum())
    return torch.stack(values)


def check(
    targets: TeacherTargets, expected_P: Tensor, student_PV: Tensor, kind: str, parameters: dict[str, float], T: float
) -> None:
    """The plain function, the closed form in float32 and the one in float64, against autograd."""
    (expected_PV,) = torch.autograd.grad(expected_P.sum(), student_PV)
    close: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-5 * max(1.0, float(expected_PV.abs().max()))}
    settings = {"kind": kind, "temperature": T, "temperature_squared": False, **parameters}
    got_P = distillation_loss(student_PV, targets, reduction="none", **settings)
    torch.testing.assert_close(got_P, expected_P, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(torch.autograd.grad(got_P.sum(), student_PV)[0], expected_PV, **close)
    terms = LossTerms([make_term("divergence", **settings)], student_PV.shape[1])
    supervision = Supervision(torch.zeros(len(student_PV), dtype=torch.int64), targets)
    for dtype in (torch.float32, torch.float64):
        leaf_PV = student_PV.detach().to(dtype, copy=True).requires_grad_()
        loss, sums_K = loss_of_logits(leaf_PV, terms, supervision, chunk=2)
        torch.testing.assert_close(sums_K[0], expected_P.sum().detach(), rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(torch.autograd.grad(loss, leaf_PV)[0].double(), expected_PV, **close)


@pytest.mark.parametrize(("kind", "parameters"), MERGING)
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_value_and_gradient_are_those_of_a_partition(
    name: str, kind: str, parameters: dict[str, float], temperature: float
) -> None:
    """Rows with a tail among those without; for forward KL of a sample the weights have no class for the rest."""
    targets = compress(rows(V, 6, 12, 4, 9, 1), SPECS[name])
    empty_P = targets.log_tail_mass(temperature) == -torch.inf
    assert empty_P.tolist() == [True, False, True, False, True]
    if (name, kind) == ("sampled", "forward_kl"):
        targets = targets[empty_P]
    student_PV = (torch.randn(targets.num_positions, V, dtype=torch.float64) * 2).requires_grad_()
    expected_P = on_a_partition(targets, student_PV, temperature, kind, parameters)
    check(targets, expected_P, student_PV, kind, parameters, temperature)


@pytest.mark.parametrize(("kind", "parameters"), FINITE)
@pytest.mark.parametrize("name", SPECS)
def test_nothing_is_lost_of_a_row_without_a_tail(name: str, kind: str, parameters: dict[str, float]) -> None:
    """The divergence on every class by itself, of the teacher's own logits."""
    logits_PV = rows(V, 6, 4, 1)
    student_PV = (torch.randn(3, V, dtype=torch.float64) * 2).requires_grad_()
    log_p_PV = logits_PV.double().log_softmax(-1).clamp(min=LOG_NEVER)
    expected_P = FORMULAS[kind](log_p_PV, student_PV.log_softmax(-1), **parameters).sum(-1)
    check(compress(logits_PV, SPECS[name]), expected_P, student_PV, kind, parameters, 1.0)


@pytest.mark.parametrize(("kind", "parameters"), MERGING)
def test_entries_that_are_all_classes_leave_none(kind: str, parameters: dict[str, float]) -> None:
    """A tail of no class at all would charge alpha_beta of 0 and 0 for a logarithm that nobody has."""
    logits_PV = rows(K, 6, 4)
    targets = compress(logits_PV, SPECS["top-k"])
    assert targets.num_certain_P.tolist() == [6, 4]
    student_PV = torch.randn(2, K, dtype=torch.float64).requires_grad_()
    expected_P = on_a_partition(targets, student_PV, 1.0, kind, parameters)
    whole_P = FORMULAS[kind](logits_PV.double().log_softmax(-1), student_PV.log_softmax(-1), **parameters).sum(-1)
    torch.testing.assert_close(expected_P[:1], whole_P[:1], rtol=1e-5, atol=1e-5)
    check(targets, expected_P, student_PV, kind, parameters, 1.0)
