"""What has to stay true of the house; `python tests/shape.py` prints its figures."""

from shape import TASKS, against_the_flow, circles, named_outside


def test_rooms_use_only_the_rooms_before_them() -> None:
    assert against_the_flow() == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles() == []


def test_no_other_room_asks_which_task_it_is() -> None:
    assert named_outside(dict.fromkeys(TASKS, "tasks")) == []
