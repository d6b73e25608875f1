"""Which softmax a temperature T stands for: the usual schedule of temperatures and the source article's. No torch here.

  hinton     softmax(z / T)                                    Hinton et al. 2015; the default
  article    T > 1:      softmax(α z), α = T / (T − 1)
             T = 1:      the limit α → ∞, one-hot at the largest logit
             0 < T < 1:  softmax(β z), β = −α = T / (1 − T)

The article's variant is the usual softmax at another temperature, |T − 1| / T:

  article T    →0    1/5   1/3   1/2   2/3   4/5   1         5/4   2     5     →∞
  hinton T     →∞    4     2     1     1/2   1/4   one-hot   1/5   1/2   4/5   →1

so every usual temperature t is the article's 1 / (1 + t), and below 1 also its 1 / (1 − t). Both models use the same
one, and the square that keeps the gradient's size is that of the usual temperature, 1/α² or 1/β².

At the limit both models would be one-hot, which gives no gradient. What is learnt there is the cross-entropy of the
student at its plain softmax, T = 1 of the usual schedule, against the teacher's likeliest class, with no square.
"""

import math
from typing import Literal

from kdcache.errors import ConfigError

__all__ = ["TemperatureSchedule", "softmax_temperature"]

TemperatureSchedule = Literal["hinton", "article"]


def softmax_temperature(temperature: float, schedule: str = "hinton", refused: str | None = None) -> float | None:
    """The t of softmax(z / t); None for the one-hot limit. Raises ConfigError unless T is finite and above 0.

    refused: what has no value at the limit, if it has none: only a cross-entropy has one, others are infinite or a
    constant away from it.
    """
    if not 0 < temperature < math.inf:
        raise ConfigError(f"got temperature {temperature:g}, expected a finite number above 0")
    if schedule == "hinton":
        return float(temperature)
    if schedule != "article":
        raise ConfigError(f"got temperature_schedule {schedule!r}, expected hinton or article")
    if temperature != 1:
        return abs(temperature - 1) / temperature
    if refused is not None:
        raise ConfigError(
            f"got kind {refused} at temperature 1 of temperature_schedule article, expected forward_kl: the teacher is "
            "one-hot there; use another temperature, e.g. 0.5, which is the plain softmax"
        )
    return None
