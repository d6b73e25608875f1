"""What of a finished cache can be repaired without its teacher: everything that is told twice.

    cache.json         holds the header and every commit record
    header.json        and the commit records hold cache.json, but for what it says of the corpus
    skipped.jsonl      the rows are in cache.json; their places are words of the corpus
    any other file     in a copy of the cache, known by its digest

Nothing is written whose digest is not the recorded one.
"""

import hashlib
from collections.abc import Callable, Collection

from kdcache.errors import CacheError, next_command
from kdcache.store.cache import begun_header
from kdcache.store.files import Root, is_name
from kdcache.store.limits import most_of
from kdcache.store.manifest import CommitRecord, CorpusPin, Header, Manifest, canonical, parse
from kdcache.store.places import record_name, shard_folders
from kdcache.store.skipped import read_skipped, write_skipped

__all__ = ["copy_from", "digests", "manifest_of_records", "restore_records", "restore_skipped", "sweep"]

LOST = f"cache.json is lost too; with the settings file of its dump, {next_command('dump-logits', 'dump.yaml')}"
Where = Callable[[int, int], str]


def manifest_of_records(root: Root, num_units: int, corpus: CorpusPin | None) -> Manifest:
    """cache.json as header.json and the commit records give it; nothing is written.

    Raises:
        CacheError: One of them is missing or damaged.
    """
    header = begun_header(root)
    if header is None:
        raise CacheError(f"{root.url} has lost both cache.json and header.json, expected one of them")
    commits = [_record(root, header, unit) for unit in range(num_units)]
    return Manifest.of(header, tuple(commits), corpus)


def _record(root: Root, header: Header, unit: int) -> CommitRecord:
    name = record_name(unit)
    try:
        commit = parse(CommitRecord, root.read(name, most_of(name)), f"{root.url}/{name}", LOST)
    except FileNotFoundError:
        raise CacheError(f"{root.url}/{name} is missing, and {LOST}") from None
    if (commit.unit, commit.header_sha256) != (unit, header.digest()):
        raise CacheError(f"{root.url}/{name} is not of this header, and {LOST}")
    return commit


def restore_records(root: Root, manifest: Manifest, names: Collection[str]) -> list[str]:
    """Write those of header.json and the commit records that are among the names; which they were."""
    known = {"header.json": canonical(manifest.header)}
    known |= {record_name(commit.unit): canonical(commit) for commit in manifest.shards}
    written = sorted(known.keys() & set(names))
    for name in written:
        root.write(name, known[name])
    return written


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

    write_skipped(root, manifest, where or told)


def digests(manifest: Manifest) -> dict[str, str]:
    """File -> sha256 of everything that cache.json pins."""
    header = manifest.header
    files = header.tokenizer.files if header.tokenizer else {}
    pinned = {f"tokenizer/{name}": sha256 for name, sha256 in files.items()}
    if header.basis is not None:
        pinned[header.basis.file] = header.basis.sha256
    return pinned | {commit.file: commit.sha256 for commit in manifest.shards}


def copy_from(source: Root, root: Root, manifest: Manifest, names: Collection[str]) -> list[str]:
    """Take these files of a cache from a copy of it, where that has them with the recorded digest; which they were."""
    pinned, copied = digests(manifest), []
    for name in sorted(pinned.keys() & set(names)):
        try:
            data = source.read(name)
        except FileNotFoundError:
            continue
        if hashlib.sha256(data).hexdigest() == pinned[name]:
            root.write(name, data)
            copied.append(name)
    return copied


def sweep(root: Root, strangers: Collection[str], *, force: bool) -> list[str]:
    """Delete what killed writers left behind; with force, files that are not the cache's too. Which files are gone."""
    folders = ("", *shard_folders(root), "tokenizer")
    before = {sub: root.leftovers(sub) for sub in folders}
    for sub in folders:
        root.sweep(sub)
    gone = {f"{sub}/{name}".lstrip("/") for sub in folders for name in {*before[sub]} - {*root.leftovers(sub)}}
    if force:
        others = {name for name in strangers if name not in gone and is_name(name)}
        root.delete(sorted(others))
        gone |= others
    return sorted(gone)
