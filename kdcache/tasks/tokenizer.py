"""Load, save and identify a tokenizer.

A tokenizer's files change when it is saved by another version or from another folder, its behaviour does not. So its
digest is of what it is: the backend's own JSON (vocabulary, merges, normaliser, post-processor, added tokens)
without its truncation and padding, the special tokens and the chat template.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from kdcache.errors import ConfigError

__all__ = ["load_tokenizer", "padding_id", "save_tokenizer", "tokenizer_digest"]

HOST_KEYS = ("is_local", "local_files_only", "name_or_path")


def load_tokenizer(path: str | Path, trust_remote_code: bool = False, revision: str | None = None) -> Any:
    """A tokenizer of transformers from a folder or by name. Raises ConfigError in one line."""
    from transformers import AutoTokenizer

    folder = Path(path)
    local = folder.exists() or folder.is_absolute() or str(path).startswith((".", "~")) or str(path).count("/") > 1
    if local and not folder.is_dir():
        raise ConfigError(f"got tokenizer {path}, which is no folder; expected one with tokenizer.json in it")
    try:
        return AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code, revision=revision)
    except Exception as error:  # transformers raises a dozen classes for a broken folder
        if not folder.exists():
            raise ConfigError(
                f"got tokenizer {path}, which is neither a folder nor one that can be fetched; "
                "expected a folder with tokenizer.json, or a name"
            ) from error
        words = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"cannot load a tokenizer from {path}: {words[:200]}; expected a folder with tokenizer.json, or a name"
        ) from error


def save_tokenizer(tokenizer: Any, folder: str | Path) -> None:
    """Write its files, the same bytes wherever it was loaded from."""
    if _backend(tokenizer) is not None:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(str(folder))
    path = Path(folder) / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in HOST_KEYS}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def padding_id(tokenizer: Any) -> int:
    """The token of padding: the tokenizer's own, else its end of text."""
    found = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((int(token) for token in found if token is not None), 0)


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256 hex: equal for a tokenizer and its saved copy, different when any text may become other tokens."""
    backend = _backend(tokenizer)
    if backend is None:
        model: object = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    else:
        model = {key: value for key, value in json.loads(backend).items() if key not in ("truncation", "padding")}
    content = {
        "model": model,
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "chat_template": tokenizer.chat_template,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _backend(tokenizer: Any) -> str | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else backend.to_str()
