"""Which cache of a mixture gives which sample: shares, exact counts, and each cache's samples in its own order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.stream.course import Course
from kdcache.stream.mixing import DEVIATION, LEAST_SHARE, Mixing
from kdcache.stream.rota import Rota

WEIGHTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=5)
LANES = st.integers(1, 70)


def caches_of(mixing: Mixing, offsets: int) -> np.ndarray:
    """Of each sample, as [offset, lane]."""
    return np.stack([mixing.cache(lane, np.arange(offsets)) for lane in range(mixing.lanes)], 1)


@given(WEIGHTS, LANES, st.integers(1, 80))
def test_each_step_and_each_lane_has_its_share_of_each_cache(weights: list[float], lanes: int, offsets: int) -> None:
    """One sample of each lane, or of every team-th: less than one sample off; a lane: a few."""
    caches = caches_of(Mixing.of(weights, lanes), offsets)
    for cache, weight in enumerate(weights):
        share, found = weight / sum(weights), caches == cache
        assert np.abs(found.sum(1) - share * lanes).max() < 1 + 1e-6
        for teams in (2, 3):
            if lanes % teams == 0:
                for team in range(teams):
                    assert np.abs(found[:, team::teams].sum(1) - share * lanes / teams).max() < 1 + 1e-6
        ahead = np.cumsum(found, 0) - share * np.arange(1, offsets + 1)[:, None]
        assert np.abs(ahead).max() < DEVIATION


@given(WEIGHTS, LANES, st.integers(0, 300), st.data())
def test_counts_and_places_are_those_of_counting(
    weights: list[float], lanes: int, offsets: int, data: st.DataObject
) -> None:
    mixing = Mixing.of(weights, lanes)
    caches = caches_of(mixing, offsets + 1)
    lane = data.draw(st.integers(0, lanes - 1))
    for cache in range(len(weights)):
        counted = (caches[:offsets] == cache).sum(0)
        every = np.arange(lanes)
        assert np.array_equal(mixing.taken(cache, every, np.full(lanes, offsets)), counted)
        assert mixing.taken(cache, lane, offsets) == counted[lane]
        places = np.flatnonzero(caches[:offsets, lane] == cache)
        first = data.draw(st.integers(0, len(places)))
        assert np.array_equal(mixing.offsets(cache, lane, first, len(places) - first), places[first:])


@pytest.mark.parametrize("weights", [(1, 1), (1, 2, 5), (LEAST_SHARE, 1), (0.3, 0.3, 0.3, 0.1)])
def test_a_lane_is_entered_anywhere(weights: tuple[float, ...]) -> None:
    """Far out, too, where the counts of all caches make up the offset and each has its share."""
    mixing = Mixing.of(weights, 256)
    for offset in (10**6, 10**8 + 7, 4 * 10**9):
        counts = [mixing.taken(cache, 77, offset) for cache in range(len(weights))]
        assert sum(counts) == offset
        for cache, count in enumerate(counts):
            share = (mixing.edges[cache + 1] - mixing.edges[cache]) / (1 << 32)
            assert abs(share - weights[cache] / sum(weights)) < 2.4e-10
            assert abs(count - offset * share) < DEVIATION
            place = int(mixing.offsets(cache, 77, count, 1)[0])
            assert place >= offset
            assert mixing.taken(cache, 77, place) == count
            assert mixing.taken(cache, 77, place + 1) == count + 1


@given(WEIGHTS, st.sampled_from([(8, 8), (16, 4), (4, 12), (3, 3)]), st.integers(1, 9), st.integers(0, 40))
def test_each_cache_gives_its_samples_in_its_own_order_and_all_of_them(
    weights: list[float], sizes: tuple[int, int], each: int, begin: int
) -> None:
    """Each lane of a cache is gone through from its first sample to its last, epoch after epoch, none twice or left
    out; a step is told of the number of its first sample wherever the run is entered."""
    global_batch, lanes = sizes
    rota, mixing = Rota.of(global_batch, lanes), Mixing.of(weights, lanes)
    courses = [Course(cache, mixing, rota, each) for cache in range(len(weights))]
    for lane in range(0, lanes, 3):
        for course in courses:
            first, stop = course.number(lane, begin), course.number(lane, begin + 30)
            assert first == course.number(lane, 0) + sum(
                course.number(lane, step + 1) - course.number(lane, step) for step in range(begin)
            )
            for number in range(first, stop):
                step = course.step(lane, number)
                assert begin <= step < begin + 30
                assert course.number(lane, step) <= number < course.number(lane, step + 1)
        counts = [course.number(lane, begin + 30) - course.number(lane, begin) for course in courses]
        assert sum(counts) == rota.offset(lane, begin + 30) - rota.offset(lane, begin)
