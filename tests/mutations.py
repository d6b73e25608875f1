"""Ways to spoil an input: bytes of a file, and values of a settings file. The same seed spoils it the same way."""

import contextlib
import copy
import random
import signal
import unicodedata
from collections.abc import Iterator
from typing import Any

__all__ = ["EXTREMES", "TooSlow", "spoiled_bytes", "spoiled_values", "steers", "time_limit"]

EXTREMES: list[Any] = [
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**53, 2**62, 2**63 - 1, -(2**62), 2**63, 2**70, -(2**70)),
    *(0.0, -0.0, 0.5, 1e-320, 1e300, -1e300, float("nan"), float("inf"), float("-inf"), 1e400),
    *("", " ", "a", "auto", "none", "cpu", "0", "-1", "1e9", "nan", "\0", "a\0b", "\ud800", "\u202e\x1b[2J", "é" * 3),
    *(
        "~",
        "~nobody/x",
        "$HOME",
        "${NOT_SET}",
        ".",
        "/",
        "..",
        "/dev/null",
        "/dev/zero",
        "s3://",
        "file://",
        "a://b",
        "*",
    ),
    *("x" * 300, "x" * 5000, "/".join("y" * 60 for _ in range(100)), "[", "{", "?*["),
    *([], [None], [[]], [1, 2], ["a"], {}, {"a": 1}, {1: 2}, {"name": "x"}, {"kind": "x"}, [{"name": "cross_entropy"}]),
    *([{}], {"": ""}, {"name": None}, {"kind": []}, b"bytes", [0.5] * 300),
]
INTERESTING = [
    b"\0",
    b"\xff",
    b"\x80",
    b"\n",
    b"\r",
    b'"',
    b"'",
    b"{",
    b"[",
    b",",
    b":",
    b"\\",
    b"\\ud800",
    b"\t",
    b"-",
]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in nested mappings and lists."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


def spoiled_values(value: Any, rng: random.Random, keys: list[str] | None = None) -> Any:
    """A copy with one to three places replaced, removed, doubled, or given a key. keys: to add, beside those it has."""
    found = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.choice([place for place in places(found) if place] or [()])
        if not at:
            return rng.choice(EXTREMES)
        inner = found
        for key in at[:-1]:
            inner = inner[key]
        how = rng.random()
        if how < 0.6:
            inner[at[-1]] = copy.deepcopy(rng.choice(EXTREMES))
        elif how < 0.7:
            del inner[at[-1]]
        elif how < 0.8:
            inner[at[-1]] = [inner[at[-1]], inner[at[-1]]]
        elif isinstance(inner, dict):
            name = rng.choice(keys) if keys and rng.random() < 0.8 else rng.choice(("x", "", 1, None, "a.b", "\u202e"))
            inner[name] = copy.deepcopy(rng.choice(EXTREMES))
    return found


def spoiled_bytes(data: bytes, rng: random.Random) -> bytes:
    """With bits flipped, bytes replaced, parts cut out, doubled, moved or put in, or the end cut off."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not found:
            return bytes(found)
        at, size = rng.randrange(len(found)), rng.choice((1, 1, 2, 4, 8, 64))
        how = rng.randrange(8)
        if how == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            found[at : at + size] = rng.randbytes(size)
        elif how == 2:
            del found[at : at + size]
        elif how == 3:
            found[at:at] = found[at : at + size]
        elif how == 4:
            found[at:at] = rng.choice(INTERESTING)
        elif how == 5:
            found[at : at + size] = (rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1))).to_bytes(
                8, "little"
            )[:size]
        elif how == 6:
            del found[at:]
        else:
            found[at : at + 1] = rng.choice(INTERESTING)
    return bytes(found)


class TooSlow(BaseException):
    pass


@contextlib.contextmanager
def time_limit(seconds: int = 20) -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise TooSlow

    kept = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, kept)


def steers(text: str, *, lines: bool = False) -> bool:
    shown = text.replace("\n", "") if lines else text
    return any(
        unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(c) in ("LRE", "RLO", "LRO", "RLE", "PDF", "LRI", "RLI", "FSI", "PDI")
        for c in shown
    )
