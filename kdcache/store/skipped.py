"""skipped.jsonl: the bad rows that a dump left out, a line of JSON for each, in the order of the corpus.

    {"cache_sha256": "…"}
    {"unit": 3, "row": 4, "place": "corpus.jsonl:35", "why": "is not JSON: …"}

The first line has the digest of cache.json, so that the list of another cache is not taken for this one's. row: number
in the unit, from 0. The commit records hold the same but for the places, which are words for people: a corpus file may
be renamed, and its rows stay what they are.
"""

import json
from collections.abc import Callable, Iterable

from kdcache.errors import CacheError
from kdcache.store.files import Root
from kdcache.store.limits import most_of
from kdcache.store.manifest import Manifest, SkippedRow
from kdcache.store.shard import repair_command

__all__ = ["SKIPPED", "read_skipped", "write_skipped"]

SKIPPED = "skipped.jsonl"


def write_skipped(
    root: Root, manifest: Manifest, skipped: Iterable[tuple[int, SkippedRow]], where: Callable[[int, int], str]
) -> None:
    """Write the list, or delete an older one where nothing was left out.

    Args:
        root: The cache.
        manifest: Its cache.json.
        skipped: (unit, row), in order, as the commit records have them.
        where: (unit, row) -> place.
    """
    lines = [
        json.dumps({"unit": unit, "row": row.row, "place": where(unit, row.row), "why": row.why})
        for unit, row in skipped
    ]
    if lines:
        first = json.dumps({"cache_sha256": manifest.digest()})
        root.write(SKIPPED, ("\n".join([first, *lines]) + "\n").encode())
    elif root.exists(SKIPPED):
        root.delete(SKIPPED)


def read_skipped(root: Root, manifest: Manifest | None = None) -> dict[tuple[int, int], tuple[str, str]]:
    """(unit, row) -> (place, why); empty without a list.

    Raises:
        CacheError: It is damaged, or the list of another cache than that of the manifest.
    """
    try:
        lines = root.read(SKIPPED, most_of(SKIPPED)).decode().splitlines()
        first, *rows = [json.loads(line) for line in lines]
        if manifest is not None and first["cache_sha256"] != manifest.digest():
            raise CacheError(f"{root.url}/{SKIPPED} is of another cache; {repair_command(root)}")
        return {(int(row["unit"]), int(row["row"])): (str(row["place"]), str(row["why"])) for row in rows}
    except FileNotFoundError:
        return {}
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        raise CacheError(f"{root.url}/{SKIPPED} is damaged, expected a list of the rows left out") from None
