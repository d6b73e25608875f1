"""The name that a user may have meant: only one that is near, else none."""

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean", "nearest"]

NEAR = 0.75


def nearest(name: object, names: Iterable[str]) -> str | None:
    found = difflib.get_close_matches(str(name), [*names], n=1, cutoff=NEAR)
    return found[0] if found else None


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """ "; did you mean X?", or nothing where no name is near."""
    found = nearest(name, names)
    return f"; did you mean {found}?" if found else ""
