"""What of a finished cache can be repaired without its teacher: everything that is told twice.

    header.json        is in cache.json
    cache.json         and its table are in header.json and the commit records, but for what it says of the corpus
    a commit record    is in the table and in its shard
    skipped.jsonl      the rows are in the table; their places are words of the corpus
    any other file     in a copy of the cache, known by its digest

Nothing is written whose digest is not the recorded one.
"""

import hashlib
from collections.abc import Callable, Collection

from kdcache.errors import CacheError, next_command
from kdcache.store.cache import begun_header
from kdcache.store.commits import Commits
from kdcache.store.files import Root, is_name
from kdcache.store.limits import most_of
from kdcache.store.manifest import CommitRecord, CorpusPin, Header, Manifest, canonical, parse
from kdcache.store.places import own_folders, record_name, sweep_leftovers, unit_of
from kdcache.store.rebuild import rebuilt_record
from kdcache.store.shards import manifest_of
from kdcache.store.skipped import read_skipped, write_skipped

__all__ = [
    "copy_from",
    "digests",
    "manifest_of_records",
    "rebuild_records",
    "restore_header",
    "restore_skipped",
    "sweep",
    "write_manifest",
]

LOST = (
    "cache.json or shards.arrow is lost too; with the settings file of its dump, "
    f"{next_command('dump-logits', 'dump.yaml')}"
)
Where = Callable[[int, int], str]


def manifest_of_records(root: Root, num_units: int, corpus: CorpusPin | None) -> tuple[Manifest, bytes]:
    """cache.json and the bytes of its table, as header.json and the commit records give them; nothing is written.

    Raises:
        CacheError: One of them is missing or damaged.
    """
    header = begun_header(root)
    if header is None:
        raise CacheError(f"{root.url} has lost both cache.json and header.json, expected one of them")
    commits = Commits.of(_record(root, header, unit) for unit in range(num_units))
    return manifest_of(header, commits, corpus, root)


def _record(root: Root, header: Header, unit: int) -> CommitRecord:
    name = record_name(unit)
    try:
        commit = parse(CommitRecord, root.read(name, most_of(name)), f"{root.url}/{name}", LOST)
    except FileNotFoundError:
        raise CacheError(f"{root.url}/{name} is missing, and {LOST}") from None
    if (commit.unit, commit.header_sha256) != (unit, header.digest()):
        raise CacheError(f"{root.url}/{name} is not of this header, and {LOST}")
    return commit


def write_manifest(root: Root, manifest: Manifest, table: bytes) -> None:
    """Write cache.json, after its table."""
    root.write(manifest.table.file, table)
    root.write("cache.json", canonical(manifest))


def restore_header(root: Root, manifest: Manifest, names: Collection[str]) -> list[str]:
    """Write header.json, where it is among the names; which files that were."""
    if "header.json" not in names:
        return []
    root.write("header.json", canonical(manifest.header))
    return ["header.json"]


def restore_skipped(root: Root, manifest: Manifest, where: Where | None) -> None:
    """Write the list of rows that were left out.

    Args:
        root: The cache.
        manifest: Its cache.json.
        where: (unit, row) -> place in the corpus; None where the corpus is not there: then places that the list
            still has stay, and others are told by their numbers.
    """
    try:
        known = {row: place for row, (place, _) in read_skipped(root).items()}
    except CacheError:
        known = {}

    def told(unit: int, row: int) -> str:
        return known.get((unit, row), f"unit {unit}, row {row + 1}")

    write_skipped(root, manifest, manifest.shards.skipped(), where or told)


def digests(manifest: Manifest, names: Collection[str]) -> dict[str, str]:
    """File -> sha256 of those among the names that cache.json pins."""
    header, shards = manifest.header, manifest.shards
    files = header.tokenizer.files if header.tokenizer else {}
    pinned = {f"tokenizer/{name}": sha256 for name, sha256 in files.items()}
    if header.basis is not None:
        pinned[header.basis.file] = header.basis.sha256
    for name in names:
        unit = unit_of(header, name)
        if unit is not None and unit < len(shards):
            pinned[name] = shards.digest("record_sha256" if name == record_name(unit) else "sha256", unit)
    return {name: pinned[name] for name in sorted(pinned.keys() & {*names})}


def copy_from(source: Root, root: Root, manifest: Manifest, names: Collection[str]) -> list[str]:
    """Take these files of a cache from a copy of it, where that has them with the recorded digest; which they were."""
    copied = []
    for name, sha256 in digests(manifest, names).items():
        try:
            data = source.read(name)
        except FileNotFoundError:
            continue
        if hashlib.sha256(data).hexdigest() == sha256:
            root.write(name, data)
            copied.append(name)
    return copied


def rebuild_records(root: Root, manifest: Manifest, names: Collection[str]) -> list[str]:
    """Make those of the commit records among the names again whose shards are sound; which they were."""
    written = []
    for name in sorted(names):
        unit = unit_of(manifest.header, name)
        if unit is not None and unit < len(manifest.shards) and name == record_name(unit):
            record = rebuilt_record(root, manifest, unit)
            if record is not None:
                root.write(name, record)
                written.append(name)
    return written


def sweep(root: Root, strangers: Collection[str], *, force: bool) -> list[str]:
    """Delete what killed writers left behind; with force, files that are not the cache's too. Which files are gone."""
    folders = own_folders(root)
    before = {sub: root.leftovers(sub) for sub in folders}
    sweep_leftovers(root)
    gone = {f"{sub}/{name}".lstrip("/") for sub in folders for name in {*before[sub]} - {*root.leftovers(sub)}}
    if force:
        others = {name for name in strangers if name not in gone and is_name(name)}
        root.delete(sorted(others))
        gone |= others
    return sorted(gone)
