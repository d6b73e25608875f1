"""Pinning a tokenizer's folder: which files are the tokenizer, and their digests."""

import hashlib
import json
import os
from pathlib import Path

from kdcache.errors import CacheError
from kdcache.store.manifest import TokenizerPin

__all__ = ["pin_tokenizer"]

NAMES = {
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
}


def pin_tokenizer(folder: str | os.PathLike[str]) -> TokenizerPin:
    """The pin of a folder that `save_pretrained` wrote; a model's other files in it are left out.

    The fingerprint is the sha256 of the files' names and digests. Raises CacheError without a tokenizer.json.
    """
    contents = {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*")) if path.name in NAMES}
    if "tokenizer.json" not in contents:
        raise CacheError(
            f"{folder} has no tokenizer.json, expected one: write it with tokenizer.save_pretrained(folder)"
        )
    files = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    return TokenizerPin(
        fingerprint=hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
        vocab_size=_highest_id(json.loads(contents["tokenizer.json"])) + 1,
        files=files,
    )


def _highest_id(tokenizer: dict) -> int:
    """Vocabularies are {token: id}, or for unigram models a list in order of id."""
    vocab = tokenizer["model"]["vocab"]
    ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
    return max([*ids, *(token["id"] for token in tokenizer["added_tokens"])])
