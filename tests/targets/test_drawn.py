"""Drawn records: what is stored against the plain answers in float64, unbiased weights, and what is refused."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rows import SHAPES, make_rows, plain
from torch import Tensor

from kdcache import compress
from kdcache.errors import ConfigError
from kdcache.losses.metrics import measure
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.targets.coded import Coded
from kdcache.targets.compress import compress_to_arrays
from kdcache.targets.drawn import MOST_SAMPLES, Drawn
from kdcache.targets.drawn_targets import DrawnTargets
from kdcache.targets.noise import worth_at

KEEP_ALL = ("entropy", "label_loss")
BYTE = 0.5 / 16
"""Half a step of a share, in log-odds, and of an entropy, in nats."""
RNG = 2024

pytestmark = pytest.mark.usefixtures("compression")


def keys(P: int, seed: int = 0) -> np.ndarray:
    return np.stack([np.full(P, seed), np.arange(P), np.zeros(P, np.int64)], 1)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    V=st.integers(2, 900),
    samples=st.integers(2, 80),
    T=st.sampled_from([0.3, 1.0, 2.5]),
    seed=st.integers(0, 99),
)
def test_what_comes_back(shape: str, V: int, samples: int, T: float, seed: int) -> None:
    rows_PV = make_rows(shape, 7, V, seed)
    kind = Drawn(samples=samples, temperature=T)
    targets = compress(rows_PV, kind, keys(7, seed))
    assert isinstance(targets, DrawnTargets)
    log_p_PV, _, entropy_P = plain(rows_PV, T)
    for p in range(7):
        kept = targets.inclusion_PE[p] != 0
        ids, certain = targets.ids_PE[p][kept], targets.certain_PE()[p][kept]
        assert len(set(ids.tolist())) == len(ids) <= samples + 2
        assert (ids[~certain].diff() > 0).all(), "drawn classes ascend"
        sure = (log_p_PV[p].exp() * samples >= 1).nonzero()[:, 0].tolist()
        nearly = (log_p_PV[p].exp() * samples >= 0.999).nonzero()[:, 0].tolist()
        assert set(sure) <= set(ids[certain].tolist()) <= set(nearly)
        assert (log_p_PV[p][ids[certain]].diff() <= 1e-5).all(), "certain classes are likeliest first"
        # Each share is right within half a step of its log-odds, of what is left after the shares before it.
        left, log_left = 1.0, 0.0
        for k, class_id in enumerate(ids[certain].tolist()):
            found = (targets.relative_PE[p, k].double() / T).exp().item() / np.exp(log_left)
            exact = log_p_PV[p, class_id].exp().item() / left
            if exact < 1 - 1e-4 and found < 1 - 1e-6:
                assert abs(np.log(found / (1 - found)) - np.log(exact / (1 - exact))) < BYTE + 2e-3
            left -= log_p_PV[p, class_id].exp().item()
            log_left += np.log1p(-min(found, 1 - 1e-12))
            if left < 1e-4:
                break
    assert (targets.entropy(T) - entropy_P).abs().max() <= BYTE + 1e-4
    assert torch.allclose(targets.weights(T).sum(-1), torch.ones(7), atol=1e-5)
    sure_P = targets.weights(T).masked_fill(~targets.certain_PE(), 0.0).sum(-1)
    assert torch.allclose(sure_P + targets.tail_mass(T), torch.ones(7), atol=1e-5)
    assert torch.allclose(sure_P, targets.coverage(T), atol=1e-5)
    again = Coded.of(kind, compress_to_arrays(rows_PV, kind, keys(7, seed)), V).targets()
    assert torch.equal(again.weights(T), targets.weights(T))


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("T", [1.0, 2.0])
def test_weights_are_unbiased(shape: str, T: float) -> None:
    """Over many draws of one row the mean of the Horvitz-Thompson weights is p, certain ones within their rounding."""
    draws, V, samples = 4000, 60, 9
    row_V = make_rows(shape, 5, V, seed=3)[2]
    targets = compress(row_V.expand(draws, V), Drawn(samples=samples, temperature=T), keys(draws, RNG))
    p_V = (row_V.double() / T).softmax(-1)
    mean_V = torch.zeros(V, dtype=torch.float64)
    mean_V.scatter_add_(0, targets.ids_PE.flatten(), targets.weights(T, "horvitz_thompson").double().flatten())
    mean_V /= draws
    certain_V = p_V * samples >= 1
    deviation_V = (p_V * (1 / samples) / draws).sqrt()
    assert ((mean_V - p_V).abs()[~certain_V] < 5 * deviation_V[~certain_V] + 1e-6).all()
    assert ((mean_V - p_V).abs()[certain_V] < 2 * BYTE * (p_V * (1 - p_V))[certain_V].clamp(min=1e-4) + 1e-6).all()


def test_noise_is_that_of_a_sample_with_logits() -> None:
    """Same certain classes, same draw, same weights as a sampled record at its one temperature."""
    rows_PV = make_rows("zipf", 50, 3000)
    drawn = compress(rows_PV, Drawn(samples=21), keys(50))
    sampled = compress(
        rows_PV,
        {"kind": "sampled", "exact_top_k": 0, "samples": 21, "logit_dtype": "float32", "curve": {"temperatures": [1]}},
        keys(50),
    )
    dense = [torch.zeros(50, 3000).scatter_add_(1, one.ids_PE, one.weights(1.0)) for one in (drawn, sampled)]
    assert torch.equal(dense[0] > 0, dense[1] > 0)
    assert ((dense[0] - dense[1]).abs() < 2 * BYTE * dense[1] + 1e-4).all()
    assert torch.equal(drawn.num_certain_P, sampled.num_certain_P)
    assert torch.equal(drawn.top_P[drawn.knows_top_P], sampled.top_P[drawn.knows_top_P])
    effective_P = drawn.effective_samples(1.0)
    assert torch.equal(effective_P, drawn.num_drawn_P.float())
    ratio = worth_at(drawn, 1.0).gradient_noise / worth_at(sampled, 1.0).gradient_noise
    assert 1 <= ratio < 1.5, "an upper bound that is near"


def test_no_class_is_drawn_where_none_is_left() -> None:
    rows_PV = torch.zeros(3, 4)
    rows_PV[1, 2] = 60.0
    targets = compress(rows_PV, Drawn(samples=8), keys(3))
    assert targets.num_certain_P.tolist() == [4, 1, 4]
    assert targets.tail_mass(1.0).tolist() == [0.0, 0.0, 0.0]
    assert torch.allclose(targets.weights(1.0).sum(-1), torch.ones(3))
    assert targets.effective_samples(1.0)[0] == torch.inf
    assert not targets.weights(1.0).isnan().any()


def test_classes_that_are_never_given() -> None:
    rows_PV = make_rows("normal", 5, 40)
    rows_PV[:, ::3] = -torch.inf
    targets = compress(rows_PV, Drawn(samples=30, keep=KEEP_ALL), keys(5), labels_P=torch.tensor([0, 1, 2, 3, -100]))
    banned = targets.ids_PE % 3 == 0
    assert not (banned & (targets.inclusion_PE != 0)).any()
    losses_P = targets.label_losses(torch.zeros(5, dtype=torch.int64))
    assert losses_P is not None
    assert losses_P[[0, 3]].tolist() == [240.0, 240.0]
    expected_P = -rows_PV.double().log_softmax(-1)[[1, 2], [1, 2]]
    assert (losses_P[[1, 2]] - expected_P).abs().max() <= 0.5 / 64 + 1e-4


def test_another_temperature_is_refused_in_words() -> None:
    targets = compress(make_rows("normal", 3, 50), Drawn(), keys(3))
    for question in ("weights", "log_partition", "tail_mass", "entropy", "effective_samples", "log_probs", "coverage"):
        with pytest.raises(ConfigError, match="temperature 2 is not in the cache: its drawn records answer 1 alone"):
            getattr(targets, question)(2.0)
    assert Drawn().answers(1.0)
    assert not Drawn().answers(2.0)
    with pytest.raises(ConfigError, match="expected a dense or a factored one"):
        targets.dense_log_probs(1.0)
    with pytest.raises(ConfigError, match="got estimator"):
        targets.weights(1.0, "mean")  # type: ignore[arg-type]


def test_what_is_not_kept_is_not_answered() -> None:
    rows_PV = make_rows("normal", 3, 50)
    bare = compress(rows_PV, Drawn(keep=()), keys(3))
    assert bare.label_losses(torch.zeros(3, dtype=torch.int64)) is None
    with pytest.raises(ConfigError, match=r"record\.keep \[entropy\]"):
        bare.entropy(1.0)
    assert sorted(compress_to_arrays(rows_PV, Drawn(keep=()), keys(3))) == ["entry_counts", "ids", "shares"]
    student_PV = torch.randn(3, 50)
    labels_P = torch.zeros(3, dtype=torch.int64)
    means = {
        keep: measure(student_PV, Supervision(labels_P, compress(rows_PV, Drawn(keep=keep), keys(3)))).means()
        for keep in ((), KEEP_ALL)
    }
    assert {"kl", "teacher_label_nll"} <= means[KEEP_ALL].keys()
    assert not {"kl", "teacher_label_nll"} & means[()].keys()


def test_the_gradient_does_not_need_the_entropy() -> None:
    rows_PV = make_rows("zipf", 6, 300)
    found = []
    for keep in ((), ("entropy",)):
        gradient_PV = torch.linspace(-1, 1, 300).repeat(6, 1)
        targets = compress(rows_PV, Drawn(keep=keep), keys(6))
        supervision = Supervision(torch.zeros(6, dtype=torch.int64), targets)
        value = LossTerms([make_term(name="divergence")], 300).value_and_gradient_(gradient_PV, supervision)
        found.append((gradient_PV, float(value.sum())))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] > found[1][1], "without it the loss is the divergence from what is kept"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples": 1}, "samples"),
        ({"samples": MOST_SAMPLES + 1}, "samples"),
        ({"temperature": 0.01}, "temperature"),
        ({"temperature": 2.0, "keep": ["label_loss"]}, "got keep label_loss at temperature 2, expected temperature 1"),
        ({"keep": ["entropy", "entropy"]}, "expected each once"),
        ({"exact_top_k": 8}, "exact_top_k"),
    ],
)
def test_settings_that_are_wrong(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Drawn.model_validate(wrong)


Spoil = Callable[[dict[str, np.ndarray]], None]


def _first_drawn(arrays: dict[str, np.ndarray]) -> int:
    return int(np.flatnonzero(arrays["shares"] == 0)[0])


def _drawn_before_certain(arrays: dict[str, np.ndarray]) -> None:
    arrays["shares"][_first_drawn(arrays) + 1] = 9


def _twice(arrays: dict[str, np.ndarray]) -> None:
    arrays["ids"][_first_drawn(arrays) + 1] = 0


def _beyond(arrays: dict[str, np.ndarray]) -> None:
    arrays["ids"][_first_drawn(arrays) + 1] = 3000


def _too_many(arrays: dict[str, np.ndarray]) -> None:
    arrays["entry_counts"][:] = 0
    arrays["entry_counts"][0] = len(arrays["ids"])


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_drawn_before_certain, "a certain entry comes after a drawn one"),
        (_twice, "a class is drawn twice"),
        (_beyond, "expected below 3000"),
        (_too_many, "entries, expected at most"),
    ],
)
def test_faults_of_stored_arrays(spoil: Spoil, fault: str) -> None:
    arrays = compress_to_arrays(make_rows("zipf", 9, 3000), Drawn(), keys(9))
    assert [*Drawn().faults(arrays, 3000)] == []
    spoil(arrays)
    assert any(fault in found for found in Drawn().faults(arrays, 3000))


def test_a_position_moves_alone() -> None:
    """Slices of the records, and records of slices, are the same."""
    rows_PV: Tensor = make_rows("student_t", 8, 500)
    whole, part = compress(rows_PV, Drawn(), keys(8)), compress(rows_PV[3:5], Drawn(), keys(8)[3:5])
    E = part.ids_PE.shape[1]
    assert torch.equal(whole[slice(3, 5)].weights(1.0)[:, :E], part.weights(1.0))
    assert torch.equal(whole[slice(3, 5)].ids_PE[:, :E], part.ids_PE)
