"""Sizes that do not go together are answered with sizes that do."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.errors import ConfigError
from kdcache.stream.fitting import check_sizes

NAMES = {"global_batch": "global_batch", "stream.lanes": "lanes", "micro_batch": "micro_batch"}
sizes = st.integers(1, 130)


def followed(words: str, settings: dict[str, int]) -> dict[str, int]:
    changes = re.findall(r"(global_batch|stream\.lanes|micro_batch) to (\d+)", words.rpartition("; set ")[2])
    return settings | {NAMES[name]: int(value) for name, value in changes}


@given(st.integers(1, 200), sizes, sizes, sizes, st.integers(1, 9))
def test_advice_that_is_followed_is_accepted(examples, batch, micro, lanes, world_size):
    settings = {"global_batch": batch, "micro_batch": micro, "lanes": lanes}
    try:
        check_sizes(examples, world_size=world_size, **settings)
    except ConfigError as error:
        if "or fewer ranks" in str(error):
            assert examples < world_size
        else:
            check_sizes(examples, world_size=world_size, **followed(str(error), settings))


@pytest.mark.parametrize(
    ("examples", "sizes", "world_size", "words"),
    [
        (1000, (64, 8, 64), 3, "got world size 3 and 64 lanes, expected the world size to divide the lanes; set "),
        (38, (64, 8, 64), 1, "got a cache of 38 examples and global_batch 64, expected at least 64 examples; set "),
        (1000, (16, 6, 4), 1, "expected micro_batch to divide them; set micro_batch to "),
    ],
)
def test_what_is_wrong_comes_first(examples, sizes, world_size, words):
    batch, micro, lanes = sizes
    with pytest.raises(ConfigError) as caught:
        check_sizes(examples, global_batch=batch, micro_batch=micro, lanes=lanes, world_size=world_size)
    assert words in str(caught.value)
