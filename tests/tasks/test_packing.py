"""windows against a plain loop, and the laws of what is supervised."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.tasks.packing import one_each, windows


@st.composite
def documents(draw):
    lengths = draw(st.lists(st.integers(1, 9), max_size=8))
    found, start = [], 100
    for length in lengths:
        learnable = draw(st.lists(st.booleans(), min_size=length, max_size=length))
        found.append((np.arange(start, start + length), np.array(learnable, bool)))
        start += length
    return found


def windows_by_loop(found, length, attention):
    """The same by the definition: every token has an owner, t is supervised if t + 1 is learnable and has the same."""
    stream = [
        (int(token), bool(may), number)
        for number, (tokens, learnable) in enumerate(found)
        for token, may in zip(tokens, learnable, strict=True)
    ]
    examples, left_out = [], 0
    for start in range(0, len(stream), length):
        window = stream[start : start + length]
        owner = [number if attention == "document" else 0 for _, _, number in window]
        positions = [t for t in range(len(window) - 1) if window[t + 1][1] and owner[t] == owner[t + 1]]
        pieces = [owner.count(number) for number in sorted(set(owner))]
        if positions:
            tokens = [token for token, _, _ in window]
            examples.append((tokens, positions, [tokens[t + 1] for t in positions], pieces))
        else:
            left_out += 1
    return examples, left_out


ARRAYS = ("tokens", "positions", "labels", "documents")


@settings(max_examples=300, deadline=None)
@given(documents(), st.integers(2, 12), st.sampled_from(["document", "causal"]))
def test_windows_are_what_the_definition_says(found, length, attention):
    examples, left_out = windows(found, length, attention)
    plain = [tuple(getattr(e, name).tolist() for name in ARRAYS) for e in examples]
    assert (plain, left_out) == windows_by_loop(found, length, attention)
    assert all(getattr(e, name).dtype == np.int64 for e in examples for name in ARRAYS)


@settings(max_examples=100, deadline=None)
@given(documents(), st.integers(2, 12), st.sampled_from(["document", "causal"]))
def test_no_token_is_lost_and_windows_are_full(found, length, attention):
    everything = [(tokens, np.ones(len(tokens), bool)) for tokens, _ in found]
    examples, left_out = windows(everything, length, attention)
    stream = [token for tokens, _ in found for token in tokens.tolist()]
    packed = [token for example in examples for token in example.tokens.tolist()]
    if not left_out:
        assert packed == stream
    assert len(packed) + left_out * length >= len(stream)
    assert set(packed) <= set(stream)
    assert len(packed) == len(set(packed))
    for example in examples:
        assert example.documents.sum() == len(example.tokens) <= length
        assert (example.documents > 0).all()
        assert example.labels.tolist() == example.tokens[example.positions + 1].tolist()
        borders = np.cumsum(example.documents) - 1
        assert not set(example.positions.tolist()) & set(borders.tolist())
        assert len(example.positions) == len(example.tokens) - len(example.documents)
    assert all(len(example.tokens) == length for example in examples[:-1]) or left_out


@settings(max_examples=50, deadline=None)
@given(documents())
def test_one_each(found):
    examples, left_out = one_each(found)
    assert len(examples) + left_out == len(found)
    kept = [(tokens, may) for tokens, may in found if may[1:].any()]
    for example, (tokens, learnable) in zip(examples, kept, strict=True):
        assert example.tokens.tolist() == tokens.tolist()
        assert example.documents.tolist() == [len(tokens)]
        assert example.labels.tolist() == tokens[1:][learnable[1:]].tolist()


def test_a_window_may_not_hold_an_example_of_one_token():
    examples, left_out = windows([(np.arange(5), np.ones(5, bool))], 4, "causal")
    assert SimpleNamespace(n=len(examples), left_out=left_out) == SimpleNamespace(n=1, left_out=1)


@pytest.mark.parametrize("attention", ["document", "causal"])
def test_nothing_gives_nothing(attention):
    assert windows([], 8, attention) == ([], 0)
