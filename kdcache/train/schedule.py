"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state.

Linear warm-up to the peak, then constant, linear or half-cosine decay to final_fraction of it.
"""

import math

from kdcache.train.settings import ScheduleConfig

__all__ = ["learning_rate"]


def learning_rate(step: int, *, total_steps: int, peak: float, schedule: ScheduleConfig) -> float:
    """The rate of a step, which is counted from 0 to total_steps − 1."""
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    if schedule.kind == "constant":
        return peak
    progress = min(1.0, (step - schedule.warmup_steps) / max(1, total_steps - schedule.warmup_steps))
    left = 1 - progress if schedule.kind == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return peak * (schedule.final_fraction + (1 - schedule.final_fraction) * left)
