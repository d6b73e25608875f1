"""Pinning a tokenizer: what it is, and the digests of its files."""

import hashlib
import os
from pathlib import Path
from typing import Any

from kdcache.errors import CacheError
from kdcache.store.files import Root
from kdcache.store.limits import most_of
from kdcache.store.manifest import TokenizerPin
from kdcache.store.pinned import read_pinned
from kdcache.tasks.tokenizer_names import check_tokenizer_file

__all__ = ["pin_tokenizer", "read_tokenizer_file"]


def pin_tokenizer(folder: str | os.PathLike[str], tokenizer: Any | None = None) -> TokenizerPin:
    """The pin of a folder that `save_pretrained` wrote; a model's other files in it are left out.

    Args:
        folder: a local folder with tokenizer.json.
        tokenizer: the one in it, where it is loaded already; loading it takes a second.

    Raises:
        CacheError: the folder has no tokenizer.json.
        ConfigError: its tokenizer cannot be loaded.
    """
    from kdcache.tasks.tokenizer import load_tokenizer, tokenizer_digest, tokenizer_files, vocabulary_size

    files = tokenizer_files(Path(folder))
    if not any(file.name == "tokenizer.json" for file in files):
        raise CacheError(
            f"{folder} has no tokenizer.json, expected one: write it with tokenizer.save_pretrained(folder)"
        )
    if tokenizer is None:
        tokenizer = load_tokenizer(Path(folder))
    return TokenizerPin(
        behaviour_sha256=tokenizer_digest(tokenizer),
        vocab_size=vocabulary_size(tokenizer),
        files={file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
    )


def read_tokenizer_file(root: Root, name: str, sha256: str) -> bytes:
    """The cache's copy of a tokenizer's file.

    Raises:
        CacheError: It is missing or another one, or asks whoever loads it to run code.
    """
    path = f"tokenizer/{name}"
    data = read_pinned(root, path, sha256, most_of(path))
    try:
        check_tokenizer_file(name, data)
    except ValueError as error:
        raise CacheError(f"{root.url}/{path} {error}") from None
    return data
