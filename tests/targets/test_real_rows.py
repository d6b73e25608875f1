"""How far what a cache answers may lie from a real teacher's rows, SmolLM2-135M's.

P positions, V classes.
"""

from pathlib import Path

import pytest
import torch
from real_rows import windows_of_rows
from rows import plain
from torch import Tensor

from kdcache.targets.compress import compress
from kdcache.targets.curve_spec import CurveSpec
from kdcache.targets.record import TeacherTargets
from kdcache.targets.sampled import Sampled

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("compression")]

TEMPERATURES = (0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.3, 1.5, 1.7, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0)


@pytest.fixture(scope="module")
def logits_PV(smollm2_folder: Path) -> Tensor:
    """4 windows of 96 tokens: 380 rows of 49,152 classes."""
    return torch.cat([logits for _, logits in windows_of_rows(smollm2_folder, 4, 97)])


@pytest.fixture(scope="module")
def targets(logits_PV: Tensor, compression: str) -> TeacherTargets:
    return compress(logits_PV, Sampled())


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_normaliser_and_entropy(logits_PV: Tensor, targets: TeacherTargets, temperature: float) -> None:
    _, log_partition_P, entropy_P = plain(logits_PV, temperature)
    assert (targets.log_partition(temperature) - log_partition_P).abs().max() <= 1e-3
    assert (targets.entropy(temperature) - entropy_P).abs().max() <= 1e-2


def test_quantisation_alone(logits_PV: Tensor, targets: TeacherTargets) -> None:
    """KL of the exact from the stored probabilities, nats on the mean position: every entry, and the rest as one."""
    p_PV, _, _ = plain(logits_PV, 1.0)
    kept_PE = targets.inclusion_PE > 0
    exact_PE = p_PV.gather(1, targets.ids_PE).exp() * kept_PE
    stored_PE = targets.log_probs(1.0).double().exp() * kept_PE
    exact_PC, stored_PC = (
        torch.cat([p, (1 - p.sum(1, keepdim=True)).clamp(min=1e-12)], 1) for p in (exact_PE, stored_PE)
    )
    kl_P = torch.special.xlogy(exact_PC, exact_PC / stored_PC.clamp(min=1e-30)).sum(1)
    assert 0 < kl_P.mean() <= 1e-4


def test_normalised_weights_sum_to_one(logits_PV: Tensor, targets: TeacherTargets) -> None:
    for temperature in (0.5, 1.0, 2.0, 4.0):
        ones_P = targets.weights(temperature).sum(-1)
        torch.testing.assert_close(ones_P, torch.ones_like(ones_P), rtol=0, atol=1e-5)
    at_one = compress(logits_PV, Sampled(exact_top_k=0, samples=21, curve=CurveSpec(temperatures=(1.0,))))
    ones_P = at_one.weights(1.0).sum(-1)
    torch.testing.assert_close(ones_P, torch.ones_like(ones_P), rtol=0, atol=1e-5)
