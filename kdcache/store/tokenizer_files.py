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

    The fingerprint is of what tokenizer.json says, whatever its formatting, truncation and padding: equal for the
    teacher's folder and for a copy of it saved by transformers. Raises CacheError without a tokenizer.json.
    """
    contents = {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*")) if path.name in NAMES}
    if "tokenizer.json" not in contents:
        raise CacheError(
            f"{folder} has no tokenizer.json, expected one: write it with tokenizer.save_pretrained(folder)"
        )
    tokenizer = json.loads(contents["tokenizer.json"])
    behaviour = {key: value for key, value in tokenizer.items() if key not in ("truncation", "padding")}
    return TokenizerPin(
        fingerprint=hashlib.sha256(json.dumps(behaviour, sort_keys=True).encode()).hexdigest(),
        vocab_size=_highest_id(tokenizer) + 1,
        files={name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    )


def _highest_id(tokenizer: dict) -> int:
    """Vocabularies are {token: id}, or for unigram models a list in order of id."""
    vocab = tokenizer["model"]["vocab"]
    ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
    return max([*ids, *(token["id"] for token in tokenizer["added_tokens"])])
