"""Integers on disk and the numbers they stand for."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kdcache.targets.coded import Coded, as_tensor, workable
from kdcache.targets.compress import compress, compress_to_arrays
from kdcache.targets.curve_codec import (
    DEVIATION_STEPS,
    MEAN_STEPS,
    VALUE_STEPS,
    Moments,
    decode_moments,
    encode_moments,
)
from kdcache.targets.curve_spec import CurveSpec
from kdcache.targets.dense import Dense
from kdcache.targets.logit_codec import float16_above, from_linear, from_octaves, octave_steps, to_steps
from kdcache.targets.sampled import Sampled

pytestmark = pytest.mark.usefixtures("compression")

NODES = CurveSpec()
AT_ONE = Sampled(exact_top_k=0, samples=21, curve=CurveSpec(temperatures=(1.0,)))
SINGLES = CurveSpec(temperatures=(1.0, 2.0))


@given(hnp.arrays(np.float64, (3, 60), elements=st.floats(-240, 0)), st.sampled_from([NODES, SINGLES]))
def test_moments_come_back_within_half_a_step(tail_PV: np.ndarray, spec: CurveSpec) -> None:
    """Of any tail; a value's step is 16 times coarser beyond 8 nats of its forecast."""
    scaled_PKV = np.array(spec.betas)[:, None] * tail_PV[:, None]
    value_PK = np.logaddexp.reduce(scaled_PKV, axis=-1)
    p_PKV = np.exp(scaled_PKV - value_PK[:, :, None])
    mean_PK = (p_PKV * tail_PV[:, None]).sum(-1)
    deviation_PK = np.sqrt((p_PKV * (tail_PV[:, None] - mean_PK[:, :, None]) ** 2).sum(-1))
    count_P = np.full(3, 60)
    arrays = encode_moments(Moments(value_PK, mean_PK, deviation_PK if spec.interpolates else None), spec, count_P)
    assert all(array.dtype == np.uint16 for array in arrays.values())
    tensors = {name: workable(as_tensor(array)) for name, array in arrays.items()}
    back = decode_moments(tensors, spec, torch.from_numpy(count_P))
    np.testing.assert_allclose(back.mean_PK, mean_PK, atol=0.5 / MEAN_STEPS + 1e-9)
    found_PK = back.value_PK.numpy()
    near_PK = np.abs(found_PK - value_PK) <= np.where(np.abs(value_PK) < 7.9, 0.51, 8.51) / VALUE_STEPS
    if spec.interpolates:
        assert back.deviation_PK is not None
        np.testing.assert_allclose(back.deviation_PK, deviation_PK, atol=0.5 / DEVIATION_STEPS + 1e-9)
        near_PK = np.abs(found_PK - value_PK) <= 8.51 / VALUE_STEPS
    beyond_PK = (value_PK < -135) & (found_PK < -135)
    assert (near_PK | beyond_PK).all()


def test_an_empty_tail_is_stored_as_zeros() -> None:
    moments = Moments(np.full((2, 7), np.nan), np.full((2, 7), np.nan), np.full((2, 7), np.nan))
    with np.errstate(invalid="ignore"):
        arrays = encode_moments(moments, NODES, np.array([0, 0]))
    assert not any(array.any() for array in arrays.values())


@given(
    hnp.arrays(np.float32, 40, elements=st.floats(-240, 0, width=32)),
    st.sampled_from(
        [(Sampled(), True, 3.5e-4), (Sampled(), False, 5.5e-3), (AT_ONE, True, 3.5e-4), (AT_ONE, False, 0.045)]
    ),
)
def test_logarithmic_steps_keep_what_matters(relative_E: np.ndarray, kept: tuple[Sampled, bool, float]) -> None:
    spec, certain, bound = kept
    steps = (octave_steps(spec.plan) or (0, 0))[not certain]
    codes_E = to_steps(relative_E, np.array(steps), None)
    back_E = from_octaves(workable(as_tensor(codes_E)), steps).numpy()
    assert (np.abs(back_E - relative_E) <= bound * (1 - relative_E)).all()
    assert (back_E[relative_E == 0] == 0).all()


@given(hnp.arrays(np.float32, 40, elements=st.floats(-240, 0, width=32)))
def test_linear_steps_cover_the_span(relative_E: np.ndarray) -> None:
    span = float16_above(-relative_E.min(keepdims=True))
    assert span >= -relative_E.min()
    span_E = np.repeat(span, len(relative_E))
    back_E = from_linear(as_tensor(to_steps(relative_E, np.array(0), span_E)), torch.from_numpy(span_E)).numpy()
    assert (np.abs(back_E - relative_E) <= float(span[0]) / 509).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32"])
@pytest.mark.parametrize("V", [40, 70_000])
def test_arrays_have_the_declared_types_and_decode_alike_in_parts(dtype: str, V: int) -> None:
    logits_PV = torch.randn(12, V, generator=torch.Generator().manual_seed(V)) * 4
    spec = Sampled(logit_dtype=dtype, exact_top_k=4, samples=6)
    arrays = compress_to_arrays(logits_PV, spec)
    for field in spec.fields(V):
        assert arrays[field.name].dtype == field.dtype
        assert arrays[field.name].shape[1:] == field.shape
        rows = arrays["entry_counts"].sum() if field.level == "entry" else 12
        assert len(arrays[field.name]) == rows
    whole = Coded.of(spec, arrays, V).targets()
    first = arrays["entry_counts"][:5].sum()
    part = {k: a[:first] if k in ("ids", "logits") else a[:5] for k, a in arrays.items()}
    some = Coded.of(spec, part, V).targets()
    E = some.ids_PE.shape[1]
    for name in ("ids_PE", "logits_PE", "inclusion_PE"):
        assert torch.equal(getattr(some, name), getattr(whole, name)[:5, :E])
    assert torch.equal(some.log_partition(1.3), whole[:5].log_partition(1.3))
    # A maximum is stored in steps of 2⁻¹², but exactly beside float32 logits.
    bound = 1e-6 if dtype == "float32" else 2**-13 + 1e-6
    assert (whole.logits_PE[:, 0] - logits_PV.amax(1)).abs().max() < bound


def test_sampled_logits_never_rank_above_certain_ones() -> None:
    """Coarse steps could lift one: order and the curve's ceiling hold all the same."""
    logits_PV = torch.randn(200, 3_000, generator=torch.Generator().manual_seed(1)) * 0.5
    targets = compress(logits_PV, Sampled())
    assert (targets.logits_PE.masked_fill(targets.inclusion_PE == 0, -1e9).diff(dim=1) <= 1e-6)[:, :8].all()
    lowest_P = targets.logits_PE.masked_fill(~targets.certain_PE(), torch.inf).amin(1)
    sampled_PE = (targets.inclusion_PE > 0) & ~targets.certain_PE()
    assert (targets.logits_PE.masked_fill(~sampled_PE, -torch.inf).amax(1) <= lowest_P).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint16"])
def test_dense_records_come_back(dtype: str) -> None:
    logits_PV = torch.randn(5, 300) * 3
    targets = compress(logits_PV, Dense(logit_dtype=dtype))
    error = {"float16": 8e-3, "float32": 2e-6, "uint16": 8e-3}[dtype]
    assert (targets.logits_PE - logits_PV).abs().max() <= error
    assert targets.is_exact


def test_no_rows_are_fine() -> None:
    for spec in (Sampled(), Dense(logit_dtype="uint16"), Sampled(logit_dtype="uint8")):
        targets = compress(torch.zeros(0, 50), spec)
        assert targets.num_positions == 0
        assert targets.log_partition(1.0).shape == (0,)
        assert targets.weights(1.0).shape[0] == 0
