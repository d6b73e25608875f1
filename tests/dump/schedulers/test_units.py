"""The bookkeeping of a scheduler: no unit is lost, none is held twice, and one that kills is found."""

from hypothesis import given
from hypothesis import strategies as st

from kdcache.dump.schedulers.units import DEATHS, Units

STEPS = st.lists(st.tuples(st.sampled_from(["want", "commit", "die"]), st.integers(0, 2)), max_size=60)


@given(st.integers(0, 12), STEPS)
def test_every_unit_waits_is_held_by_one_or_stands(count: int, steps: list[tuple[str, int]]) -> None:
    units, held, stand = Units(), {worker: list[int]() for worker in range(3)}, set[int]()
    units.found(range(count))
    for what, worker in steps:
        if what == "want" and (unit := units.next_for(worker)) is not None:
            assert unit not in stand
            assert all(unit not in others for others in held.values())
            held[worker].append(unit)
        elif what == "commit" and held[worker]:
            stand.add(held[worker][0])
            units.committed(worker, held[worker].pop(0))
        elif what == "die":
            units.lost(worker)
            held[worker] = []
        assert units.missing == count - len(stand)
        assert units.done == (len(stand) == count)
    for worker in range(3):
        units.lost(worker)
    while (unit := units.next_for(0)) is not None:
        units.committed(0, unit)
        stand.add(unit)
    assert stand == set(range(count))
    assert units.done


def test_a_unit_that_kills_is_blamed_and_its_neighbours_are_not() -> None:
    units, killer = Units(), 2
    units.found(range(6))
    blamed: list[int] = []
    for _ in range(20):
        held: list[int] = []
        while len(held) < 3 and (unit := units.next_for(0)) is not None:
            held.append(unit)
        if killer in held:
            blamed = units.lost(0)
            if blamed:
                break
            continue
        for unit in held:
            units.committed(0, unit)
    assert blamed == [killer]
    assert units.deaths[killer] == DEATHS
    assert sum(units.made.values()) == 2


def test_a_worker_that_begins_later_finds_what_stands() -> None:
    units = Units()
    assert not units.done
    units.found([0, 1, 2, 3])
    assert units.next_for(0) == 0
    units.lost(0)  # its shard stood, and nobody was told
    units.found([2, 3])
    assert units.missing == 2
    units.found([0, 1, 2, 3])
    assert units.missing == 2
