"""What has to stay true of the house; `python tests/shape.py` prints its figures."""

import statistics

from shape import KINDS, against_the_flow, circles, files, long_functions, named_outside, threaded


def test_rooms_use_only_the_rooms_before_them() -> None:
    assert against_the_flow() == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles() == []


def test_no_other_room_asks_which_task_it_is() -> None:
    assert named_outside(KINDS) == []


def test_files_and_functions_stay_short() -> None:
    assert len(long_functions(60)) <= 5
    assert statistics.median(len(path.read_text(encoding="utf-8").splitlines()) for path in files()) <= 120


def test_few_parameters_are_handed_on_through_many_calls() -> None:
    assert len(threaded(above=4)) <= 5
