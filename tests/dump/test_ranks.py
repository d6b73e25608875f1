import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.dump.ranks import Rank, find_rank
from kdcache.errors import ConfigError


@given(st.integers(0, 200), st.integers(1, 20))
def test_ranks_share_the_units_without_overlap(num_units: int, world_size: int) -> None:
    shares = [Rank(r, world_size).units(num_units) for r in range(world_size)]
    assert sorted(unit for share in shares for unit in share) == list(range(num_units))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Rank(0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Rank(3, 8, 1)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1"}, Rank(5, 16, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16"}, Rank(0, 1, 0)),  # a batch script, not a step
    ],
)
def test_launchers(environment: dict[str, str], expected: Rank) -> None:
    assert find_rank(None, None, environment) == expected


def test_arguments_win_over_the_launcher() -> None:
    assert find_rank(1, 4, {"RANK": "0", "WORLD_SIZE": "2"}) == Rank(1, 4, 1)


@pytest.mark.parametrize(("rank", "world_size"), [(1, None), (None, 2), (2, 2)])
def test_bad_ranks(rank: int | None, world_size: int | None) -> None:
    with pytest.raises(ConfigError, match="expected"):
        find_rank(rank, world_size, {})
