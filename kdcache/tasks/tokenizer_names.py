"""Which files may be a tokenizer's: a closed list of names.

A cache brings copies of its tokenizer's files, and a student's folder takes them in beside its own. A stranger's cache
must not name config.json, weights or code among them, so that only names which the tokenizers of transformers save are
taken: transformers' own, those of the vocabulary files of its models, and chat templates.
"""

import json
import re

__all__ = ["check_tokenizer_file", "check_tokenizer_name", "is_tokenizer_name"]

NAMES = {
    # every tokenizer
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json"),
    # byte-level BPE, WordPiece and tables
    *("vocab.json", "merges.txt", "vocab.txt", "vocab.bpe", "encoder.json", "bpe.codes", "dict.txt", "normalizer.json"),
    *("vocab-src.json", "vocab-tgt.json", "target_vocab.json", "entity_vocab.json", "emoji.json", "byte_maps.json"),
    *("word_shape.json", "word_pronunciation.json", "prophetnet.tokenizer"),
    # SentencePiece
    *("tokenizer.model", "spiece.model", "spm.model", "sentencepiece.model", "sentencepiece.bpe.model"),
    *("spm_char.model", "source.spm", "target.spm", "tokenizer.model.v1", "tokenizer.model.v2", "tokenizer.model.v3"),
    # tiktoken and Mistral
    *("tiktoken.model", "qwen.tiktoken", "tekken.json"),
}
TEMPLATE = re.compile(r"additional_chat_templates/[A-Za-z0-9_][A-Za-z0-9_.+-]*\.jinja")


def is_tokenizer_name(name: str) -> bool:
    """Whether a file of this name, relative to a model's folder, may be its tokenizer's."""
    return name in NAMES or TEMPLATE.fullmatch(name) is not None


def check_tokenizer_name(name: str) -> str:
    """The name. Raises ValueError for one that is no tokenizer file's."""
    if not is_tokenizer_name(name):
        raise ValueError(f"got tokenizer file {name!r}, expected one that tokenizers save, such as tokenizer.json")
    return name


def check_tokenizer_file(name: str, data: bytes) -> None:
    """Raises ValueError for a tokenizer that asks whoever loads it to run code: `auto_map` in tokenizer_config.json."""
    if name != "tokenizer_config.json":
        return
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON, expected the settings of a tokenizer") from None
    if not isinstance(config, dict):
        raise ValueError("is no JSON object, expected the settings of a tokenizer")
    if "auto_map" in config:
        raise ValueError("names code to run (auto_map), expected a tokenizer of transformers' own")
