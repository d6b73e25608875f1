"""fetch: a copy of a published cache, in a folder of this machine."""

import re

from kdcache.errors import CacheError, ConfigError
from kdcache.progress import show
from kdcache.share.claim import claim, sweep_others
from kdcache.share.copying import Moved, copy_cache, finish
from kdcache.store.cache import read_manifest
from kdcache.store.files import Root
from kdcache.store.output import CacheOutput

__all__ = ["fetch"]

REMEDY = "no byte of it was kept: ask who published the cache to push it again, or fetch another copy"


def fetch(url: str, folder: str, *, digest: str | None = None, force: bool = False) -> None:
    """Copy a cache from a store or the Hub, compare each file with its digest, and say what was fetched.

    Args:
        url: Any URL that fsspec reads, hf:// among them, or a folder.
        folder: Of this machine: new, empty, or with a part of the same copy.
        digest: Of the cache that is wanted, or its first 12 digits or more.
        force: Replace another cache that is there.

    Raises:
        CacheError: It is another cache, it is damaged or cannot be read, or another one is in the folder.
        ConfigError: The digest is none, or the folder is none for a cache.
    """
    if digest is not None and not re.fullmatch("[0-9a-f]{12,64}", digest):
        raise ConfigError(f"got --digest {digest}, expected the 64 digits that kdcache inspect prints, or 12 of them")
    source = Root(url)
    manifest = read_manifest(source)
    if digest is not None and not manifest.digest().startswith(digest):
        raise CacheError(
            f"{source.url} is the cache {manifest.digest()}, expected {digest}: give the revision that has it, or "
            "another digest"
        )
    inputs = {"URL": [] if source.local is None else [source.local]}
    held, replaces = claim(CacheOutput(folder, "fetch", inputs, force=force, setting="--out"), manifest)
    target = Root(folder)
    with held, Moved(manifest, "fetch") as moved:
        copy_cache(source, target, manifest, moved, REMEDY)
        if replaces:
            sweep_others(target, manifest)
        finish(target, manifest, moved)
    show(moved.said(folder, "fetched"))
