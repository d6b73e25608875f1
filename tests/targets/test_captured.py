"""Captured records: what is stored against the plain answers in float64, and what they refuse to answer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import SHAPES, make_rows, plain

from kdcache import compress
from kdcache.errors import ConfigError, TeacherError
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.targets.captured import Captured
from kdcache.targets.captured_targets import CapturedTargets
from kdcache.targets.coded import Coded
from kdcache.targets.compress import compress_to_arrays
from kdcache.targets.noise import worth_at


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    V=st.integers(2, 300),
    k=st.integers(1, 40),
    T=st.sampled_from([0.5, 1.0, 2.0]),
    seed=st.integers(0, 99),
)
def test_what_comes_back(shape: str, V: int, k: int, T: float, seed: int) -> None:
    rows_PV = make_rows(shape, 5, V, seed)
    kind = Captured(k=k, temperature=T)
    targets = compress(rows_PV, kind)
    assert isinstance(targets, CapturedTargets)
    log_p_PV, _, _ = plain(rows_PV, T)
    for p in range(5):
        kept = targets.inclusion_PE[p] > 0
        ids = targets.ids_PE[p][kept]
        assert len(set(ids.tolist())) == len(ids) <= min(k, V)
        exact = log_p_PV[p][ids]
        assert torch.allclose(targets.log_probs(T)[p][kept].double(), exact, atol=1e-5, rtol=1e-6)
        rest = 1 - exact.exp().sum()
        assert abs(targets.tail_mass(T)[p].item() - rest) < 1e-6
        assert log_p_PV[p].max() == exact[0]
    assert not [*kind.faults(compress_to_arrays(rows_PV, kind), V)]


def test_renormalised_records_are_the_teacher_on_its_entries_at_every_temperature() -> None:
    rows_PV = make_rows("zipf", 6, 200)
    kind = Captured(k=10, temperature=2.0, tail="renormalise")
    targets = compress(rows_PV, kind)
    for T in (0.5, 1.0, 2.0, 4.0):
        exact_PE = (rows_PV.double().gather(1, targets.ids_PE) / T).softmax(-1)
        assert torch.allclose(targets.weights(T).double(), exact_PE, atol=1e-6)
        assert kind.answers(T)
        assert worth_at(targets, T).tail_mass == 0


def kl(log_q_PV: torch.Tensor, targets: CapturedTargets, T: float) -> torch.Tensor:
    """The oracle: entries, and the rest as one class."""
    losses = []
    for p in range(len(log_q_PV)):
        ids, log_p = targets.ids_PE[p], targets.log_probs(T)[p].double()
        log_q = log_q_PV[p][ids]
        rest_p, rest_q = targets.rest_P[p].double(), 1 - log_q.exp().sum()
        losses.append((log_p.exp() * (log_p - log_q)).sum() + rest_p * (rest_p.log() - rest_q.log()))
    return torch.stack(losses)


def test_the_loss_of_a_student_is_that_of_entries_and_the_rest() -> None:
    rows_PV, student_PV = make_rows("zipf", 6, 200), make_rows("zipf", 6, 200, seed=5).requires_grad_()
    targets = compress(rows_PV, Captured(k=10))
    gradient_PV = student_PV.detach().clone()
    supervision = Supervision(torch.zeros(6, dtype=torch.int64), targets)
    value = LossTerms([make_term("divergence")], 200).value_and_gradient_(gradient_PV, supervision)
    exact = kl(student_PV.double().log_softmax(-1), targets, 1.0).sum()
    (gradient,) = torch.autograd.grad(exact, student_PV)
    assert float(value.sum()) == pytest.approx(exact.item(), rel=1e-5)
    assert torch.allclose(gradient_PV, gradient.float(), atol=1e-5)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"name": "divergence", "temperature": 2.0}, "temperature 2 is not in the cache.*captured elsewhere at 1"),
        ({"name": "divergence", "kind": "jsd", "temperature": 2.0}, "temperature 2 is not in the cache"),
        ({"name": "entropy"}, "do not know the teacher's entropy"),
        (
            {"name": "divergence", "weighting": "entropy", "entropy_temperature": 1.0},
            "do not know the teacher's entropy",
        ),
    ],
)
def test_what_is_not_known_is_refused(term: dict, message: str) -> None:
    targets = compress(make_rows("zipf", 6, 200), Captured(k=10))
    terms = LossTerms([make_term(**term)], 200)
    supervision = Supervision(torch.zeros(6, dtype=torch.int64), targets)
    with pytest.raises(ConfigError, match=message):
        terms.value_and_gradient_(torch.randn(6, 200), supervision)
    with pytest.raises(ConfigError, match=message):  # what `kdcache train` asks before a run
        terms.check(targets)


def test_classes_that_are_never_given_are_no_entries() -> None:
    rows_PV = torch.full((1, 6), -torch.inf)
    rows_PV[0, 2:4] = 0.0
    targets = compress(rows_PV, Captured(k=4))
    assert targets.num_certain_P.tolist() == [2]
    assert targets.tail_mass(1.0).tolist() == [0.0]
    with pytest.raises(TeacherError, match="NaN"):
        compress(torch.full((1, 6), torch.nan), Captured(k=4))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ids", 9, "ids go up to 9, expected below 9"),
        ("log_probs", 1.0, "log_probs go up to 1.0"),
        ("log_probs", -9.0, "ascend"),
        ("tail_mass", 2.0, "tail_mass is"),
        ("entry_counts", 0, "0 to 3 entries, expected 1 to 3"),
    ],
)
def test_faults(name: str, value: float, message: str) -> None:
    kind = Captured(k=3)
    arrays = {key: array.copy() for key, array in compress_to_arrays(torch.randn(2, 9), kind).items()}
    assert [*kind.faults(arrays, 9)] == []
    arrays[name][0] = value
    assert any(message in fault for fault in kind.faults(arrays, 9))


def test_none_at_all() -> None:
    kind = Captured(k=3)
    arrays = {"tail_mass": np.zeros(0, np.float32), "entry_counts": np.zeros(0, np.uint32)}
    arrays |= {"ids": np.zeros(0, np.uint16), "log_probs": np.zeros(0, np.float32)}
    assert Coded.of(kind, arrays, 9).targets().num_positions == 0
    assert [*kind.faults(arrays, 9)] == []
