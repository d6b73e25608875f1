"""Whether two caches hold tokens of one tokenizer.

It is told by `tokenizer_digest`, which a cache has pinned. The tokenizers themselves are loaded only to say what
differs, and so that digests which another version of the libraries computed refuse nobody.
"""

import tempfile
from typing import Any

from kdcache.store.cache import Cache
from kdcache.tasks.tokenizer import load_tokenizer, tokenizer_difference

__all__ = ["cached_tokenizer", "difference_of_tokenizers"]


def cached_tokenizer(cache: Cache) -> Any:
    """The tokenizer whose files a cache holds. Raises CacheError where it holds none."""
    with tempfile.TemporaryDirectory() as copy:
        cache.save_tokenizer(copy)
        return load_tokenizer(copy)


def difference_of_tokenizers(cache: Cache, other: Cache) -> str | None:
    """What differs; None for the same. A cache that has no tokenizer goes with any."""
    ours, theirs = cache.manifest.header.tokenizer, other.manifest.header.tokenizer
    if theirs is None or ours is None or theirs.behaviour_sha256 == ours.behaviour_sha256:
        return None
    return tokenizer_difference(cached_tokenizer(cache), cached_tokenizer(other))
