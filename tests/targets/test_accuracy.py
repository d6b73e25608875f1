"""How far what a cache answers may lie from the teacher's rows, as stored: interpolation and quantisation together."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from kdcache.targets.compress import compress
from kdcache.targets.curve_spec import CurveSpec
from kdcache.targets.dense import Dense
from kdcache.targets.kind import RecordKind
from kdcache.targets.sampled import Sampled
from kdcache.targets.top_k import TopK

pytestmark = pytest.mark.usefixtures("compression")

TEMPERATURES = (0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.3, 1.5, 1.7, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0)
T1_PROFILE = Sampled(exact_top_k=0, samples=21, curve=CurveSpec(temperatures=(1.0,)))
DENSE = Dense(logit_dtype="float32")
Rows = Callable[..., Tensor]
Plain = Callable[[Tensor, float], tuple[Tensor, Tensor, Tensor]]


def worst(
    plain: Plain, logits_PV: Tensor, spec: RecordKind, temperatures: tuple[float, ...] = TEMPERATURES
) -> tuple[float, float]:
    """The largest errors of the log-partition and of the entropy, nats."""
    targets = compress(logits_PV, spec)
    errors = []
    for temperature in temperatures:
        _, log_partition_P, entropy_P = plain(logits_PV, temperature)
        errors.append(
            (
                (targets.log_partition(temperature) - log_partition_P).abs().max().item(),
                (targets.entropy(temperature) - entropy_P).abs().max().item(),
            )
        )
    log_partitions, entropies = zip(*errors, strict=True)
    return max(log_partitions), max(entropies)


@pytest.mark.parametrize("V", [32_000, 152_000, 262_144])
@pytest.mark.parametrize("shape", ["zipf", "student_t", "normal", "two_kinds"])
def test_any_temperature_from_a_half_to_eight(rows: Rows, plain: Plain, shape: str, V: int) -> None:
    log_partition, entropy = worst(plain, rows(shape, 16, V), Sampled())
    # Logits with a polynomial tail have no moments to speak of: the larger the vocabulary, the sharper the curve bends.
    assert log_partition <= (2e-3 if (shape, V) == ("student_t", 262_144) else 1e-3)
    assert entropy <= 1e-2


def test_below_the_last_node_it_is_still_close(rows: Rows, plain: Plain) -> None:
    for shape in ("zipf", "student_t", "two_kinds"):
        log_partition, entropy = worst(plain, rows(shape, 32, 32_000), Sampled(), (0.1, 0.2, 0.3, 0.4))
        assert log_partition <= 2e-2
        assert entropy <= 2e-2


@pytest.mark.parametrize("shape", ["zipf", "student_t", "normal", "two_kinds"])
def test_a_dense_record_is_exact(rows: Rows, plain: Plain, shape: str) -> None:
    logits_PV = rows(shape, 8, 4_000)
    assert max(worst(plain, logits_PV, DENSE)) <= 1e-5
    targets = compress(logits_PV, DENSE)
    for temperature in TEMPERATURES:
        log_probs_PV, _, _ = plain(logits_PV, temperature)
        assert (targets.dense_log_probs(temperature) - log_probs_PV).abs().max() <= 1e-5


def test_a_curve_of_one_temperature_answers_it(rows: Rows, plain: Plain) -> None:
    for shape in ("zipf", "normal", "two_kinds"):
        log_partition, entropy = worst(plain, rows(shape, 32, 32_000), T1_PROFILE, (1.0,))
        assert log_partition <= 1e-3
        assert entropy <= 1e-2


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16"])
@pytest.mark.parametrize("shape", ["zipf", "student_t", "normal", "two_kinds"])
def test_quantisation_alone_costs_next_to_nothing(rows: Rows, shape: str, dtype: str) -> None:
    """KL between the kept classes' shares before and after, the tail's mass included."""
    logits_PV = rows(shape, 64, 32_000)
    spec = Sampled(logit_dtype=dtype)
    stored, exact = compress(logits_PV, spec), compress(logits_PV, spec.model_copy(update={"logit_dtype": "float32"}))
    assert torch.equal(stored.ids_PE, exact.ids_PE)
    p_PE, q_PE = (t.log_probs(1.0).double().masked_fill(~t.certain_PE(), -torch.inf) for t in (exact, stored))
    p_PC, q_PC = (
        torch.cat([part, t.tail_mass(1.0).double().clamp(min=1e-30).log()[:, None]], 1)
        for part, t in ((p_PE, exact), (q_PE, stored))
    )
    kl_P = torch.where(p_PC > -torch.inf, p_PC.exp() * (p_PC - q_PC), 0.0).nan_to_num().sum(1)
    assert kl_P.mean().abs() <= 1e-4


@pytest.mark.parametrize("spec", [Sampled(), T1_PROFILE, TopK(k=8), Sampled(logit_dtype="uint8")])
def test_normalised_weights_sum_to_one(rows: Rows, spec: RecordKind) -> None:
    for shape in ("zipf", "student_t", "normal", "two_kinds"):
        targets = compress(rows(shape, 64, 5_000), spec)
        for temperature in (1.0,) if spec is T1_PROFILE else (0.5, 1.0, 2.0):
            total_P = targets.weights(temperature).sum(-1)
            if spec.plan.samples == 0:
                total_P = total_P + targets.tail_mass(temperature)
            drawn_P = ((targets.inclusion_PE > 0) & ~targets.certain_PE()).any(-1)
            complete_P = drawn_P | (targets.tail_mass(temperature) < 1e-6) | torch.tensor(spec.plan.samples == 0)
            assert complete_P.all()
            torch.testing.assert_close(total_P, torch.ones(64), rtol=0, atol=1e-5)


def test_noise_is_foretold(rows: Rows, plain: Plain) -> None:
    """sampling_variance against the spread over 3,000 draws; few effective samples where the noise is large."""
    logits_PV, n = rows("zipf", 4, 3_000), 3_000
    for row in logits_PV:
        keys = np.stack([np.arange(n), np.zeros(n), np.zeros(n)], 1)
        targets = compress(row.expand(n, -1), Sampled(logit_dtype="float32"), keys)
        for temperature in (0.7, 1.0, 1.5):
            p_V = plain(row[None], temperature)[0][0].exp()
            weights_PV = torch.zeros(n, 3_000, dtype=torch.float64).scatter_add_(
                1, targets.ids_PE, targets.weights(temperature, "horvitz_thompson").double()
            )
            measured = ((weights_PV - p_V) ** 2).sum(1).mean()
            foretold = targets.sampling_variance(temperature).mean()
            assert 0.8 * measured <= foretold <= 1.25 * measured

    def effective(samples: int, temperature: float) -> Tensor:
        return compress(logits_PV, Sampled(samples=samples)).effective_samples(temperature).mean()

    assert effective(10, 1.0) < effective(40, 1.0)
    assert effective(25, 4.0) < effective(25, 1.0)
