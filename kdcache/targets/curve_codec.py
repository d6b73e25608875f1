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

import numpy as np

from kdcache.targets.curve_spec import CurveSpec

__all__ = ["Moments", "decode_moments", "encode_moments"]

VALUE_STEPS, MEAN_STEPS, DEVIATION_STEPS = 2048, 128, 64
_LOWEST_MEAN = -255 * MEAN_STEPS
_FINE_RANGE, _COARSE = 8 * VALUE_STEPS, 16


@dataclass(frozen=True)
class Moments:
    """Λ, Λ' and √Λ'' of the tail's logits relative to the row's maximum, float64; any finite number where it is empty.

    deviation_PK is None for a curve of single temperatures.
    """

    value_PK: np.ndarray
    mean_PK: np.ndarray
    deviation_PK: np.ndarray | None


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
        for k, h in enumerate(np.diff(spec.betas), 1):
            variance = (deviation_PK[:, k - 1 : k + 1] / DEVIATION_STEPS) ** 2
            mean_residual_PK[:, k] -= _forecast_mean(mean_PK[:, k - 1], variance, h)
            forecast_P = _forecast_value(decoded_P, mean_PK[:, k - 1 : k + 1], variance, h)
            residual_PK[:, k] = _fold(value_PK[:, k] - forecast_P)
            decoded_P = forecast_P + _unfold(residual_PK[:, k])
        codes = {
            "tail_value": residual_PK,
            "tail_mean": mean_residual_PK,
            "tail_deviation": np.diff(deviation_PK, axis=1, prepend=0),
        }
    return {name: _zigzag(np.where(tail_count_P[:, None] > 0, code, 0)) for name, code in codes.items()}


def decode_moments(arrays: Mapping[str, np.ndarray], spec: CurveSpec, tail_count_P: np.ndarray) -> Moments:
    """The moments that these arrays stand for."""
    value_PK = _unfold(_unzigzag(arrays["tail_value"]))
    mean_PK = _unzigzag(arrays["tail_mean"])
    if not spec.interpolates:
        return Moments(value_PK / VALUE_STEPS, mean_PK / MEAN_STEPS, None)
    deviation_PK = _unzigzag(arrays["tail_deviation"]).cumsum(1)
    exact_first_P = np.log(np.maximum(tail_count_P, 1)) + value_PK[:, 0] / VALUE_STEPS
    value_PK[:, 0] += _first_value(tail_count_P)
    for k, h in enumerate(np.diff(spec.betas), 1):
        variance = (deviation_PK[:, k - 1 : k + 1] / DEVIATION_STEPS) ** 2
        mean_PK[:, k] += _forecast_mean(mean_PK[:, k - 1], variance, h)
        value_PK[:, k] += _forecast_value(value_PK[:, k - 1], mean_PK[:, k - 1 : k + 1], variance, h)
    value_PK = np.concatenate([exact_first_P[:, None], value_PK[:, 1:] / VALUE_STEPS], 1)
    return Moments(value_PK, mean_PK / MEAN_STEPS, deviation_PK / DEVIATION_STEPS)


def _forecast_mean(mean: np.ndarray, variance: np.ndarray, h: float) -> np.ndarray:
    return np.clip(mean + _steps(h * variance.sum(1) / 2, MEAN_STEPS), _LOWEST_MEAN, 0)


def _forecast_value(value: np.ndarray, mean: np.ndarray, variance: np.ndarray, h: float) -> np.ndarray:
    bend = np.clip(h * h * (variance[:, 0] - variance[:, 1]) / 12, -1.0, 1.0)
    return value + _steps(h * mean.sum(1) / (2 * MEAN_STEPS) + bend, VALUE_STEPS)


def _first_value(tail_count_P: np.ndarray) -> np.ndarray:
    return _steps(np.log(np.maximum(tail_count_P, 1)), VALUE_STEPS)


def _steps(numbers: np.ndarray, steps: int) -> np.ndarray:
    return np.rint(numbers * steps).astype(np.int64)


def _fold(steps: np.ndarray) -> np.ndarray:
    """Coarser beyond the fine range, so that 16 bits reach 136 nats; the last code stands for all beyond."""
    beyond = np.minimum((np.abs(steps) - _FINE_RANGE + _COARSE // 2) // _COARSE, _FINE_RANGE - 1)
    return np.where(np.abs(steps) > _FINE_RANGE, np.sign(steps) * (_FINE_RANGE + beyond), steps)


def _unfold(codes: np.ndarray) -> np.ndarray:
    beyond = np.abs(codes) - _FINE_RANGE
    return np.where(beyond > 0, np.sign(codes) * (_FINE_RANGE + beyond * _COARSE), codes)


def _zigzag(numbers: np.ndarray) -> np.ndarray:
    return ((numbers << 1) ^ (numbers >> 63)).astype(np.uint16)


def _unzigzag(codes: np.ndarray) -> np.ndarray:
    codes = codes.astype(np.int64)
    return (codes >> 1) ^ -(codes & 1)
