import pytest

from kdcache.train.schedule import learning_rate
from kdcache.train.settings import ScheduleConfig


def rates(total: int, **settings: object) -> list[float]:
    schedule = ScheduleConfig.model_validate(settings)
    return [learning_rate(step, total_steps=total, peak=2.0, schedule=schedule) for step in range(total)]


def test_warm_up_is_linear_and_reaches_the_peak_at_its_last_step() -> None:
    assert rates(6, kind="constant", warmup_steps=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_decay_goes_from_the_peak_towards_the_final_fraction() -> None:
    assert rates(4, kind="linear", final_fraction=0.0) == [2.0, 1.5, 1.0, 0.5]
    cosine = rates(4, kind="cosine", final_fraction=0.5)
    assert cosine == pytest.approx([2.0, 1.5 + 0.5**1.5, 1.5, 1.5 - 0.5**1.5])


def test_a_run_made_of_warm_up_alone_does_not_divide_by_zero() -> None:
    assert rates(2, kind="cosine", warmup_steps=2) == [1.0, 2.0]
