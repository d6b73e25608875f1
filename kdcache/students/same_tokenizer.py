"""Whether a folder's tokenizer, or another cache's, is the one that made a cache's tokens.

Both are told as in kdcache.store.same_tokenizer.
"""

from pathlib import Path

from kdcache.errors import CacheError, StudentError
from kdcache.store.cache import Cache
from kdcache.store.same_tokenizer import cached_tokenizer, difference_of_tokenizers
from kdcache.tasks.tokenizer import has_tokenizer, load_tokenizer, tokenizer_difference, tokenizer_digest

__all__ = ["check_same_tokenizer", "check_tokenizer"]


def check_tokenizer(folder: Path, cache: Cache) -> None:
    """Raises StudentError for a student whose tokenizer is not one vocabulary with the cache's.

    Chat templates and the names of special tokens may differ; a folder without one is taken to use the cache's.
    """
    pin = cache.manifest.header.tokenizer
    if pin is None or not has_tokenizer(folder):
        return
    own = load_tokenizer(folder)
    if tokenizer_digest(own) == pin.behaviour_sha256:
        return
    why = tokenizer_difference(cached_tokenizer(cache), own)
    if why is not None:
        raise StudentError(
            f"the tokenizer in {folder} is not the cache's: {why}; take a cache made with it, or remove it from the "
            "folder if the student reads the cache's ids"
        )


def check_same_tokenizer(held_out: Cache, cache: Cache) -> None:
    """Raises CacheError for a held-out cache of another tokenizer's tokens; a cache that has none goes with any."""
    why = difference_of_tokenizers(cache, held_out)
    if why is not None:
        raise CacheError(
            f"eval.cache {held_out.root.url} was made with another tokenizer than {cache.root.url} ({why}), "
            "expected the same: dump it again"
        )
