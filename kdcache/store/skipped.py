"""skipped.jsonl: the bad rows that a dump left out, a line of JSON for each, in the order of the corpus.

    {"unit": 3, "row": 4, "place": "corpus.jsonl:35", "why": "is not JSON: …"}

row: number in the unit, from 0. The commit records hold the same but for the places, which are words for people: a
corpus file may be renamed, and its rows stay what they are.
"""

import json
from collections.abc import Callable, Iterable

from kdcache.errors import CacheError
from kdcache.store.files import Root
from kdcache.store.manifest import CommitRecord

__all__ = ["SKIPPED", "read_skipped", "write_skipped"]

SKIPPED = "skipped.jsonl"


def write_skipped(root: Root, commits: Iterable[CommitRecord], where: Callable[[int, int], str]) -> None:
    """Write the list, or delete an older one where nothing was left out. where: (unit, row) -> place."""
    lines = [
        json.dumps({"unit": commit.unit, "row": row.row, "place": where(commit.unit, row.row), "why": row.why})
        for commit in commits
        for row in commit.skipped or ()
    ]
    if lines:
        root.write(SKIPPED, ("\n".join(lines) + "\n").encode())
    elif root.exists(SKIPPED):
        root.delete(SKIPPED)


def read_skipped(root: Root) -> dict[tuple[int, int], tuple[str, str]]:
    """(unit, row) -> (place, why); empty without a list. Raises CacheError for a damaged one."""
    try:
        lines = root.read(SKIPPED).decode().splitlines()
        rows = [json.loads(line) for line in lines]
        return {(int(row["unit"]), int(row["row"])): (str(row["place"]), str(row["why"])) for row in rows}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError):
        raise CacheError(f"{root.url}/{SKIPPED} is damaged, expected a list of the rows left out") from None
