"""A file whose digest is known."""

import hashlib

from kdcache.errors import CacheError
from kdcache.store.files import Root, UnexpectedFile
from kdcache.store.shard import repair_command

__all__ = ["read_pinned"]


def read_pinned(root: Root, name: str, sha256: str, most: int, remedy: str | None = None) -> bytes:
    """A file whose digest is known.

    Args:
        root: Where it lies.
        name: Its name there.
        sha256: Its digest.
        most: How many bytes it may hold.
        remedy: What to do about another one; by default, to repair the cache in root.

    Raises:
        CacheError: It is missing, larger, no regular file, or another one.
    """
    where, remedy = f"{root.url}/{name}", remedy or repair_command(root)
    try:
        data = root.read(name, most, wrong=lambda data: hashlib.sha256(data).hexdigest() != sha256 and "another sha256")
    except FileNotFoundError:
        raise CacheError(f"{where} is missing, expected the file with sha256 {sha256[:12]}…; {remedy}") from None
    except UnexpectedFile as error:
        raise CacheError(f"{error}; {remedy}") from None
    if (got := hashlib.sha256(data).hexdigest()) != sha256:
        raise CacheError(f"{where} has sha256 {got[:12]}…, expected {sha256[:12]}…; {remedy}")
    return data
