"""The Horvitz-Thompson gradient is the dense one on average over draws, and a top-k record's is not.

n draws, V classes.
"""

import numpy as np
import pytest
import torch
from rows import make_rows
from torch import Tensor

from kdcache.losses.distillation import distillation_loss
from kdcache.targets.compress import compress
from kdcache.targets.kind import RecordKind
from kdcache.targets.sampled import Sampled
from kdcache.targets.top_k import TopK

DRAWS, V, LARGEST = 2_000, 3_000, 50
SAMPLED = Sampled(logit_dtype="float32")
SHAPES = ("zipf", "student_t", "normal", "two_kinds")


def test_the_gradient_is_unbiased() -> None:
    for shape in SHAPES:
        for temperature in (1.0, 2.0):
            by_class, by_sum = deviations(shape, SAMPLED, temperature)
            assert by_class <= 1, (shape, temperature)
            assert by_sum <= 1, (shape, temperature)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_default_record_is_unbiased_but_for_the_rounding_of_its_logits(temperature: float) -> None:
    """A drawn logit r below the largest is off by up to (1 + r) ln 2 / 128 nats, as float16 by r / 2048."""
    for dtype, room in (("uint16", 0.0055), ("float16", 0.0005)):
        for shape in SHAPES:
            logits_V = make_rows(shape, 3, V)[1]
            keys_n3 = np.stack([np.arange(DRAWS), np.zeros(DRAWS, int), np.zeros(DRAWS, int)], 1)
            targets = compress(logits_V.expand(DRAWS, -1), Sampled(logit_dtype=dtype), keys_n3)
            given_n, entry_n = (targets.inclusion_PE > 0).nonzero(as_tuple=True)
            ids_n = targets.ids_PE[given_n, entry_n]
            weights_n = targets.weights(temperature, "horvitz_thompson")[given_n, entry_n].double()
            fair_V = (logits_V.double() / temperature).softmax(-1) / inclusion(logits_V)[0]
            off_n = (weights_n / fair_V[ids_n]).log().abs()
            distance_n = (logits_V.max() - logits_V[ids_n]).double()
            bound_n = room * (1 + distance_n) * abs(1 / temperature - 1) + 2e-3
            assert (off_n <= bound_n).all(), (dtype, shape, (off_n / bound_n).max())


@pytest.mark.parametrize("tail", ["ghost", "renormalise"])
def test_the_same_check_finds_a_top_k_record_biased(tail: str) -> None:
    """33 entries are what SAMPLED keeps at most."""
    spec = TopK(k=33, tail=tail, logit_dtype="float32")
    for shape in SHAPES[:2]:
        for temperature in (1.0, 2.0):
            assert max(deviations(shape, spec, temperature)) > 10, (shape, temperature)


def deviations(shape: str, spec: RecordKind, temperature: float) -> tuple[float, float]:
    """Distance of the mean gradient from the dense one, in units of four standard errors and 0.1%, the rounding.

    The worst of the 50 largest classes, whose standard errors are those of the sampling design; and the worse of two
    sums, of all the others and of all that are not certain, whose standard errors are measured.
    """
    logits_V = make_rows(shape, 3, V)[1]
    student_V = 0.7 * logits_V.double() + torch.randn(V, generator=torch.Generator().manual_seed(1))
    p_V, q_V = ((z.double() / temperature).softmax(-1) for z in (logits_V, student_V))
    inclusion_V, order_V = inclusion(logits_V)
    gradient_nV, total_n = gradients(logits_V, student_V, spec, temperature)
    error_V = gradient_nV.mean(0) - (q_V - p_V)

    # A gradient is q Σw − w: the noise of Σw comes on top of the noise of w.
    noise_V = p_V * ((1 - inclusion_V) / inclusion_V / DRAWS).sqrt() + q_V * total_n.std() / DRAWS**0.5
    by_class = (error_V.abs() / (4 * noise_V + 1e-3 * p_V))[order_V[:LARGEST]].max().item()

    by_sum = 0.0
    rest_V = torch.ones(V, dtype=torch.bool).index_fill_(0, order_V[:LARGEST], False)
    for part_V in (rest_V, inclusion_V < 1):
        noise = gradient_nV[:, part_V].sum(1).std() / DRAWS**0.5
        tolerance = 4 * noise + 1e-3 * p_V[part_V].sum()
        by_sum = max(by_sum, (error_V[part_V].sum().abs() / tolerance).item())
    return by_class, by_sum


def inclusion(logits_V: Tensor) -> tuple[Tensor, Tensor]:
    """π of each class under SAMPLED, and the classes from the largest logit down."""
    order_V = logits_V.argsort(descending=True)
    inclusion_V = SAMPLED.samples * logits_V.double().softmax(-1)
    inclusion_V[order_V[: SAMPLED.exact_top_k]] = 1.0
    tail_V = inclusion_V < 1
    inclusion_V[tail_V] /= inclusion_V[tail_V].sum().clamp(max=1.0)
    return inclusion_V.clamp(max=1.0), order_V


def gradients(logits_V: Tensor, student_V: Tensor, spec: RecordKind, temperature: float) -> tuple[Tensor, Tensor]:
    """By student logits / T, of each draw: the loss's gradient [n, V] and the sum of the weights [n]."""
    keys_n3 = np.stack([np.arange(DRAWS), np.zeros(DRAWS), np.zeros(DRAWS)], 1)
    targets = compress(logits_V.expand(DRAWS, -1), spec, keys_n3)
    student_nV = student_V.repeat(DRAWS, 1).requires_grad_()
    loss = distillation_loss(
        student_nV,
        targets,
        kind="forward_kl",
        temperature=temperature,
        estimator="horvitz_thompson",
        temperature_squared=False,
        reduction="sum",
    )
    (gradient_nV,) = torch.autograd.grad(loss, student_nV)
    return gradient_nV * temperature, targets.weights(temperature, "horvitz_thompson").double().sum(1)
