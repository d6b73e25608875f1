"""Factored records: the distribution they stand for, against the rows they were made of."""

import pytest
import torch
from torch import Tensor

from kdcache.errors import ConfigError
from kdcache.targets.calibration import Encoder, make_basis
from kdcache.targets.compress import compress, compress_to_arrays
from kdcache.targets.curve_spec import CurveSpec
from kdcache.targets.factored import Factored
from kdcache.targets.output_layer import OutputLayer
from kdcache.targets.record import TeacherTargets
from kdcache.targets.sampled import Sampled

V, D, P = 3000, 32, 60
TEMPERATURES = (0.5, 1.0, 2.0, 4.0)


def scene(rank: int | str, seed: int = 0, **settings: object) -> tuple[Tensor, TeacherTargets]:
    rng = torch.Generator().manual_seed(seed)
    layer = OutputLayer(torch.randn(V, D, generator=rng) * 2.5 / D**0.5, torch.randn(V, generator=rng))
    mixing_DD = torch.randn(D, D, generator=rng) / D**0.5 * torch.linspace(2, 0.1, D)
    hidden_ND = torch.randn(2000, D, generator=rng) @ mixing_DD
    basis = make_basis(layer, hidden_ND[P:], rank)  # type: ignore[arg-type]
    spec = Factored.model_validate({"rank": rank, **settings})
    logits_PV = layer.logits(hidden_ND[:P])
    return logits_PV, compress(logits_PV, spec, hidden_PD=hidden_ND[:P], encoder=Encoder(basis, layer))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_whole_distribution(temperature: float) -> None:
    logits_PV, targets = scene("full")
    log_p_PV = targets.dense_log_probs(temperature)
    exact_PV = (logits_PV.double() / temperature).log_softmax(-1)
    assert (log_p_PV.double().exp().sum(-1) - 1).abs().max() < 1e-5
    certain_PE = targets.certain_PE()
    got_PE = log_p_PV.gather(1, targets.ids_PE)
    torch.testing.assert_close(got_PE[certain_PE], targets.log_probs(temperature)[certain_PE])
    assert (exact_PV.exp() * (exact_PV - log_p_PV)).sum(-1).mean() < 2e-3
    assert targets.tail == "factored"
    assert targets.effective_samples(temperature).isinf().all()
    p_PV, negative_entropy_P = targets.dense_probs(temperature)
    torch.testing.assert_close(p_PV, log_p_PV.exp(), rtol=1e-4, atol=1e-7)
    expected_P = (log_p_PV.double().exp() * log_p_PV.double()).sum(-1)
    torch.testing.assert_close(negative_entropy_P.double(), expected_P, rtol=1e-5, atol=1e-5)


def test_a_higher_rank_is_nearer() -> None:
    errors = []
    for rank in (2, 8, 16, "full"):
        logits_PV, targets = scene(rank)
        exact_PV = (logits_PV / 2).log_softmax(-1)
        errors.append(float((exact_PV.exp() * (exact_PV - targets.dense_log_probs(2.0))).sum(-1).mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 50


@pytest.mark.parametrize(
    "settings",
    [
        {"exact_top_k": 0, "samples": 6},  # rows without a certain entry
        {"exact_top_k": 4, "samples": 9},
        {"exact_top_k": V, "samples": 0},  # rows without a tail
        {"exact_top_k": 1, "samples": 0, "logit_dtype": "uint8"},
        {"exact_top_k": 3, "samples": 0, "curve": {"temperatures": [1.0, 2.0]}},
    ],
)
def test_every_kind_of_record_can_have_a_factor(settings: dict[str, object]) -> None:
    logits_PV, targets = scene("full", **settings)
    for temperature in (1.0, 2.0):
        log_p_PV = targets.dense_log_probs(temperature)
        exact_PV = (logits_PV.double() / temperature).log_softmax(-1)
        assert (log_p_PV.double().exp().sum(-1) - 1).abs().max() < 1e-5
        assert (exact_PV.exp() * (exact_PV - log_p_PV)).sum(-1).mean() < 3e-3
        p_PV, negative_entropy_P = targets.dense_probs(temperature)
        torch.testing.assert_close(p_PV, log_p_PV.exp(), rtol=1e-4, atol=1e-7)
        assert negative_entropy_P.isfinite().all()
        assert targets.weights(temperature).isfinite().all()


def test_slices_and_devices_keep_the_factor() -> None:
    _, targets = scene(4)
    rows = targets[10:20].to("cpu")
    torch.testing.assert_close(rows.dense_log_probs(2.0), targets.dense_log_probs(2.0)[10:20])
    assert rows.basis is targets.basis


def test_arrays_are_as_declared_and_small() -> None:
    layer, spec = OutputLayer(torch.randn(V, D)), Factored(rank=4)
    hidden_PD = torch.randn(P, D)
    encoder = Encoder(make_basis(layer, hidden_PD, 4), layer)
    for rows in (0, P):
        arrays = compress_to_arrays(layer.logits(hidden_PD[:rows]), spec, None, None, hidden_PD[:rows], encoder)
        for field in spec.fields(V, rank=4):
            assert arrays[field.name].dtype == field.dtype
            assert arrays[field.name].shape[1:] == field.shape


def test_hidden_states_go_with_a_factored_record() -> None:
    logits_PV, plain, factored = torch.randn(3, 50), Sampled(), Factored(rank=2, samples=25)
    hidden_PD = torch.zeros(3, 4)
    with pytest.raises(ConfigError, match="got no hidden states or no encoder for factored records, expected both"):
        compress(logits_PV, factored)
    with pytest.raises(ConfigError, match="got hidden states or an encoder for a sampled record, expected none"):
        compress(logits_PV, plain, hidden_PD=hidden_PD)
    with pytest.raises(ConfigError, match=r"got hidden states \[2, 4\], expected a row for each of 3 rows of logits"):
        compress(logits_PV, factored, hidden_PD=hidden_PD[:2])
    with pytest.raises(ConfigError, match=r"got a sparse record, expected .*record.kind factored or dense"):
        compress(logits_PV, plain).dense_log_probs(1.0)


def test_a_temperature_outside_the_curve_is_refused() -> None:
    _, targets = scene(2, curve=CurveSpec(temperatures=(1.0,)).model_dump())
    with pytest.raises(ConfigError, match="temperature 2 is not in the cache"):
        targets.dense_log_probs(2.0)
