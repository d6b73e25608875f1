"""What is at the place of a copy already: nothing, this cache or a part of it, or another one, which stays.

Whose copy an unfinished one is says the mark of its folder, .kdcache/owner.json (store/finished.py).
"""

from dataclasses import dataclass

from kdcache.errors import CacheError, UnreadableError
from kdcache.owned.folder import HIDDEN
from kdcache.owned.lock import Hold
from kdcache.store.cache import read_cache_json
from kdcache.store.files import Root
from kdcache.store.finished import CopyMark, read_copy_mark, unfinish
from kdcache.store.manifest import Manifest
from kdcache.store.output import CacheOutput
from kdcache.store.places import has_shards
from kdcache.store.skipped import SKIPPED
from kdcache.store.verify import strangers

__all__ = ["Found", "check_other", "claim", "sweep_others"]


@dataclass(frozen=True)
class Found:
    """What a place holds.

    Attributes:
        finished: The digest of its cache.json; "" of a damaged one, None where there is none.
        begun: Whether there is a header or a shard without cache.json.
        mark: What the mark of a copy says.
    """

    finished: str | None
    begun: bool
    mark: CopyMark | None

    @classmethod
    def at(cls, root: Root) -> "Found":
        """Raises UnreadableError where that cannot be known now."""
        try:
            finished: str | None = read_cache_json(root).digest()
        except FileNotFoundError:
            finished = None
        except UnreadableError:
            raise
        except CacheError:
            finished = ""
        begun = finished is None and (root.exists("header.json") or has_shards(root))
        return cls(finished, begun, read_copy_mark(root))

    def other(self, digest: str) -> str | None:
        """What is in the way of a copy of this cache, with its verb; None where nothing is."""
        if self.finished is not None:
            named = f"another cache, {self.finished[:12]}…" if self.finished else "a cache with a damaged cache.json"
            return None if self.finished == digest else f"holds {named}"
        if self.begun and (self.mark is None or self.mark.of != digest):
            return "holds a cache that is not finished, and is no copy of this one"
        return None


def check_other(found: Found, digest: str, where: str, *, force: bool) -> bool:
    """Whether something there is replaced. Raises CacheError where another cache is there, without force."""
    held = found.other(digest)
    if held is not None and not force:
        raise CacheError(
            f"{where} {held}, expected {digest[:12]}… or nothing: use another place, or give --force to replace it"
        )
    return held is not None


def claim(output: CacheOutput, manifest: Manifest) -> tuple[Hold, bool]:
    """Take a folder or a place in a store for a copy of this cache.

    Returns:
        Who holds it, and whether another cache was there that is replaced, by this command or one that was stopped.

    Raises:
        CacheError: Another cache is there, and nobody said --force.
        ConfigError: What is there is no cache.
        LockedError: Somebody writes there.
    """
    digest, root = manifest.digest(), Root(output.path)
    output.check()
    found = Found.at(root)
    replaces = check_other(found, digest, root.url, force=output.force)
    replaced = replaces or (found.mark is not None and found.mark.of == digest and found.mark.replaces)
    held = output.take(digest)
    try:
        if replaces:
            unfinish(root)
            root.delete("header.json")
        if found.finished != digest:
            Root(f"{root.url}/{HIDDEN}").write("owner.json", CopyMark(digest, replaced).to_json())
    except BaseException:
        held.release()
        raise
    return held, replaced


def sweep_others(root: Root, manifest: Manifest) -> None:
    """Delete what is left of the cache that was replaced, so that the copy is this cache and nothing else."""
    root.delete(sorted({fault.shard for fault in strangers(root, manifest) if fault.needs_force}))
    if not any(besides.skipped for _, besides in manifest.shards.besides()):
        root.delete(SKIPPED)
