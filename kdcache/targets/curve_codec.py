"""The tail's moments <-> the integers that stand for them on disk.

Values in steps of 2⁻¹¹ nats, means in 2⁻⁷ and standard deviations in 2⁻⁶, all of logits relative to their row's
maximum.

Neighbouring nodes determine each other, so a node stores what the one before does not foretell, zigzag-coded
(0, −1, 1, −2 … → 0, 1, 2, 3 …: small residuals leave the high bits idle, which bitshuffle and zstd take away):

    deviation_k − deviation_{k-1}
    mean_k      − (mean_{k-1} + h (v_{k-1} + v_k) / 2)                            v = deviation², Λ'' = v
    value_k     − (value_{k-1} + h (mean_{k-1} + mean_k) / 2 + h² (v_{k-1} − v_k) / 12)

in steps, the forecast of the decoded numbers rounded to a step. A value's residual beyond 8 nats is in steps of 2⁻⁷:
that takes a tail whose classes lie some 60 nats apart. At β = 0 the value is the log of the number of tail classes and
the residual 0, unless some are masked. A curve of 7 nodes is 42 bytes per position, 16 after compression (rows of a
135M language model, 49,152 classes); int16 values and float16 moments as they are take 31 with a larger error. A curve
of single temperatures stores each value and mean as it is, zigzag-coded.

P positions, K nodes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcache.targets.curve_spec import CurveSpec

if TYPE_CHECKING:
    from torch import Tensor

Numbers = Any
"""float64, or whole numbers as int64: a numpy array in encoding, a tensor in decoding. The forecast is one formula, for
the two must round alike."""

__all__ = ["Moments", "decode_moments", "encode_moments"]

VALUE_STEPS, MEAN_STEPS, DEVIATION_STEPS = 2048, 128, 64
_LOWEST_MEAN = -255 * MEAN_STEPS
_FINE_RANGE, _COARSE = 8 * VALUE_STEPS, 16


@dataclass(frozen=True)
class Moments:
    """Λ, Λ' and √Λ'' of the tail's logits relative to the row's maximum, float64; any finite number where it is empty.

    deviation_PK is None for a curve of single temperatures. numpy arrays where they are encoded, tensors where decoded.
    """

    value_PK: Numbers
    mean_PK: Numbers
    deviation_PK: Numbers | None


def encode_moments(moments: Moments, spec: CurveSpec, tail_count_P: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays tail_value, tail_mean and tail_deviation; zeros where the tail is empty."""
    value_PK = _steps(moments.value_PK, VALUE_STEPS)
    mean_PK = _steps(moments.mean_PK, MEAN_STEPS)
    codes = {"tail_value": _fold(value_PK), "tail_mean": mean_PK}
    if moments.deviation_PK is not None:
        deviation_PK = _steps(moments.deviation_PK, DEVIATION_STEPS)
        residual_PK, mean_residual_PK = np.zeros_like(value_PK), mean_PK.copy()
        first_P = _first_value(tail_count_P)
        residual_PK[:, 0] = _fold(value_PK[:, 0] - first_P)
        decoded_P = first_P + _unfold(residual_PK[:, 0])
        variance_PK = (deviation_PK / DEVIATION_STEPS) ** 2
        for k, h in enumerate(np.diff(spec.betas).tolist(), 1):
            variances = variance_PK[:, k - 1], variance_PK[:, k]
            mean_residual_PK[:, k] -= _whole(_forecast_mean(mean_PK[:, k - 1], *variances, h))
            forecast_P = _whole(_forecast_value(decoded_P, mean_PK[:, k - 1], mean_PK[:, k], *variances, h))
            residual_PK[:, k] = _fold(value_PK[:, k] - forecast_P)
            decoded_P = forecast_P + _unfold(residual_PK[:, k])
        codes = {
            "tail_value": residual_PK,
            "tail_mean": mean_residual_PK,
            "tail_deviation": np.diff(deviation_PK, axis=1, prepend=0),
        }
    return {name: _zigzag(np.where(tail_count_P[:, None] > 0, code, 0)) for name, code in codes.items()}


def decode_moments(arrays: "Mapping[str, Tensor]", spec: CurveSpec, tail_count_P: "Tensor") -> Moments:
    """The moments that these arrays stand for, float64 tensors on their device."""
    value_KP = _unfold(_unzigzag(arrays["tail_value"].T.contiguous()).double())
    mean_KP = _unzigzag(arrays["tail_mean"].T.contiguous()).double()
    if not spec.interpolates:
        return Moments(value_KP.T / VALUE_STEPS, mean_KP.T / MEAN_STEPS, None)
    deviation_KP = _unzigzag(arrays["tail_deviation"].T.contiguous()).cumsum(0).double() / DEVIATION_STEPS
    variance_KP = deviation_KP**2
    log_count_P = tail_count_P.clamp(min=1).double().log()
    exact_first_P = log_count_P + value_KP[0] / VALUE_STEPS
    value_KP[0] += (log_count_P * VALUE_STEPS).round()
    for k, h in enumerate(np.diff(spec.betas).tolist(), 1):
        variances = variance_KP[k - 1], variance_KP[k]
        mean_KP[k] += _forecast_mean(mean_KP[k - 1], *variances, h)
        value_KP[k] += _forecast_value(value_KP[k - 1], mean_KP[k - 1], mean_KP[k], *variances, h)
    value_KP /= VALUE_STEPS
    value_KP[0] = exact_first_P
    return Moments(value_KP.T, mean_KP.T / MEAN_STEPS, deviation_KP.T)


def _forecast_mean(mean: Numbers, variance: Numbers, variance_after: Numbers, h: float) -> Numbers:
    rise = (h * (variance + variance_after) / 2 * MEAN_STEPS).round()
    return (mean + rise).clip(_LOWEST_MEAN, 0)


def _forecast_value(
    value: Numbers, mean: Numbers, mean_after: Numbers, variance: Numbers, variance_after: Numbers, h: float
) -> Numbers:
    bend = (h * h * (variance - variance_after) / 12).clip(-1.0, 1.0)
    return value + ((h * (mean + mean_after) / (2 * MEAN_STEPS) + bend) * VALUE_STEPS).round()


def _first_value(tail_count_P: np.ndarray) -> np.ndarray:
    return _steps(np.log(np.maximum(tail_count_P, 1)), VALUE_STEPS)


def _steps(numbers: np.ndarray, steps: int) -> np.ndarray:
    return _whole(np.rint(numbers * steps))


def _whole(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(np.int64)


def _fold(steps: np.ndarray) -> np.ndarray:
    """Coarser beyond the fine range, so that 16 bits reach 136 nats; the last code stands for all beyond."""
    beyond = np.minimum((np.abs(steps) - _FINE_RANGE + _COARSE // 2) // _COARSE, _FINE_RANGE - 1)
    return np.where(np.abs(steps) > _FINE_RANGE, np.sign(steps) * (_FINE_RANGE + beyond), steps)


def _unfold(codes: Numbers) -> Numbers:
    near = codes.clip(-_FINE_RANGE, _FINE_RANGE)
    return near + (codes - near) * _COARSE


def _zigzag(numbers: np.ndarray) -> np.ndarray:
    return ((numbers << 1) ^ (numbers >> 63)).astype(np.uint16)


def _unzigzag(codes: "Tensor") -> "Tensor":
    return (codes >> 1) ^ -(codes & 1)
