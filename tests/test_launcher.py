import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.errors import ConfigError
from kdcache.launcher import World, find_world


@given(st.integers(0, 200), st.integers(1, 20))
def test_ranks_share_the_units_without_overlap(num_units: int, world_size: int) -> None:
    shares = [World(r, world_size).share(num_units) for r in range(world_size)]
    assert sorted(unit for share in shares for unit in share) == list(range(num_units))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, World(0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, World(3, 8, 1)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1"}, World(5, 16, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16"}, World(0, 1, 0)),  # a batch script, not a step
    ],
)
def test_launchers(environment: dict[str, str], expected: World) -> None:
    assert find_world(environment=environment) or World() == expected


def test_arguments_win_over_the_launcher() -> None:
    assert find_world(1, 4, environment={"RANK": "0", "WORLD_SIZE": "2"}) == World(1, 4, 1)


@pytest.mark.parametrize(("rank", "world_size"), [(1, None), (None, 2), (2, 2)])
def test_bad_ranks(rank: int | None, world_size: int | None) -> None:
    with pytest.raises(ConfigError, match="expected"):
        find_world(rank, world_size, environment={})


def array(task: int, tasks: list[int]) -> dict[str, str]:
    said = {"ID": task, "COUNT": len(tasks), "MIN": min(tasks), "MAX": max(tasks)}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in said.items()}


def test_the_tasks_of_an_array_have_devices_of_their_own() -> None:
    assert find_world(3, 8, environment=array(3, [*range(8)])) == World(3, 8, 0)
    assert find_world(3, 8, environment=array(3, [*range(8)]) | {"LOCAL_RANK": "1"}) == World(3, 8, 1)
    assert find_world(environment=array(3, [*range(8)])) is None  # an array may be of other things


@pytest.mark.parametrize("tasks", [[*range(1, 9)], [0, 2, 4, 6], [0, 1, 2, 7]])
def test_an_array_whose_numbers_are_no_ranks_is_refused_by_each_of_its_tasks(tasks: list[int]) -> None:
    for task in tasks:
        with pytest.raises(ConfigError, match=f"expected --array=0-{len(tasks) - 1}|expected a rank"):
            find_world(task, len(tasks), environment=array(task, tasks))
