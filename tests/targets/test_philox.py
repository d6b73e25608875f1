import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kdcache.targets.philox import philox4x32, uniform

ONES = 0xFFFFFFFF


def test_known_answers() -> None:
    """The vectors of Random123's kat_vectors for philox4x32-10."""
    counters = [[0] * 4, [ONES] * 4, [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]]
    keys = [[0, 0], [ONES, ONES], [0xA4093822, 0x299F31D0]]
    assert philox4x32(np.array(counters, np.uint64), np.array(keys, np.uint64)).tolist() == [
        [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ]


int64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.tuples(int64, int64, int64), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_a_draw_is_a_function_of_its_key(keys: list[tuple[int, int, int]], random: object) -> None:
    drawn = uniform(np.array(keys, np.int64))
    assert ((drawn >= 0) & (drawn < 1)).all()
    order = np.random.default_rng(0).permutation(len(keys))
    assert (uniform(np.array(keys, np.int64)[order]) == drawn[order]).all()


def test_neighbouring_keys_are_independent_and_uniform() -> None:
    """Kolmogorov-Smirnov and lag correlations along each component of the key."""
    n = 40_000
    for component in range(3):
        keys = np.full((n, 3), 5, np.int64)
        keys[:, component] = np.arange(n)
        drawn = uniform(keys)
        distance = np.abs(np.sort(drawn) - (np.arange(n) + 0.5) / n).max()
        assert distance < 1.63 / np.sqrt(n)  # 1% level
        for lag in (1, 2, 64):
            assert abs(np.corrcoef(drawn[lag:], drawn[:-lag])[0, 1]) < 4 / np.sqrt(n)
