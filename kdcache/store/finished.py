"""The mark of a finished cache, .kdcache/finished.json: what cache.json alone would say otherwise.

    {"sha256": of cache.json, "shards": how many, "corpus": its pin or null}

With header.json and the commit records it gives a lost cache.json back, and proves that it is the same. It is written
just before cache.json, and is no part of the cache: a copy without it is as good.

Of a copy that is not finished, .kdcache/owner.json says which cache it is one of.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import NonNegativeInt

from kdcache.errors import CacheError, ConfigError, UnreadableError
from kdcache.owned.folder import HIDDEN, Owner, read_mark
from kdcache.store.files import Root
from kdcache.store.manifest import CorpusPin, Manifest, Model, Sha256, canonical, parse
from kdcache.store.table import TABLE

__all__ = ["CopyMark", "Finished", "mark_finished", "read_copy_mark", "read_finished", "unfinish"]

NAME = "finished.json"


class Finished(Model):
    """What the mark says."""

    sha256: Sha256
    shards: NonNegativeInt
    corpus: CorpusPin | None = None


def mark_finished(root: Root, manifest: Manifest) -> None:
    """Write the mark of this cache.json."""
    mark = Finished(sha256=manifest.digest(), shards=manifest.totals.shards, corpus=manifest.corpus)
    Root(f"{root.url}/{HIDDEN}").write(NAME, canonical(mark))


def read_finished(root: Root) -> Finished | None:
    """The mark; None where there is none, or a damaged one. Raises UnreadableError for one that cannot be read now."""
    try:
        return parse(Finished, Root(f"{root.url}/{HIDDEN}").read(NAME), NAME)
    except UnreadableError:
        raise
    except (FileNotFoundError, CacheError):
        return None


def unfinish(root: Root) -> None:
    """Delete cache.json, its table and the mark: what is there becomes another cache."""
    root.delete(["cache.json", TABLE])
    Root(f"{root.url}/{HIDDEN}").delete(NAME)


@dataclass(frozen=True)
class CopyMark:
    """Of a copy. of: the digest of the cache. replaces: whether another cache was there."""

    of: str
    replaces: bool = False

    def to_json(self) -> bytes:
        """The mark of the folder."""
        return Owner("cache", config={"copy_of": self.of, "replaces": self.replaces}).to_json()


def read_copy_mark(root: Root) -> CopyMark | None:
    """What the mark of a folder says of the copy there; None where it is no copy's. Raises UnreadableError."""
    try:
        config: Any = read_mark(Root(f"{root.url}/{HIDDEN}").read("owner.json"), root.url).config
    except (FileNotFoundError, ConfigError):
        return None
    if not isinstance(config, dict) or "copy_of" not in config:
        return None
    return CopyMark(str(config["copy_of"]), bool(config.get("replaces")))
