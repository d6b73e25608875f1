"""Load, save and identify a tokenizer; which files are its own.

A tokenizer's files change when it is saved by another version or from another folder, its behaviour does not. So its
one identity, `tokenizer_digest`, is of what makes tokens of text: the backend's own JSON (vocabulary, merges,
normaliser, added tokens) and the tokens that it puts around a text. The chat template is not in it, nor which tokens
are called end of text or padding: a base model's tokenizer and its instructed sibling's are one vocabulary where only
these differ. A digest takes 0.4 s for 49,152 tokens, loading 0.3 s, and the first one of a process 2 s.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from kdcache.disk import check_regular, fault
from kdcache.errors import ConfigError, one_line
from kdcache.tasks.tokenizer_names import is_tokenizer_name

__all__ = [
    "gives_types",
    "has_tokenizer",
    "load_tokenizer",
    "padding_id",
    "save_tokenizer",
    "set_in_folder",
    "tokenizer_difference",
    "tokenizer_digest",
    "tokenizer_files",
    "tokenizing_libraries",
    "vocabulary_size",
]

HOST_KEYS = ("is_local", "local_files_only", "name_or_path")
CODE = "auto_map"
"""Names a teacher's own code, which does not come along with the tokenizer's files."""
LOADABLE = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""Any one of these says that a folder holds a tokenizer, and not only what belongs to one."""
MOST_BYTES = 2 << 30
"""Of a file of a tokenizer; those of the largest vocabularies have 40 MB."""
NOT_OF_TOKENS = ("truncation", "padding", "decoder", "post_processor")


def has_tokenizer(folder: str | Path) -> bool:
    """Whether this local folder holds a tokenizer's files."""
    return any((Path(folder) / name).exists() for name in LOADABLE)


def tokenizer_files(folder: str | Path) -> list[Path]:
    """The files of the tokenizer in a local folder, by name; a model's other files are left out."""
    found = (file for pattern in ("*", "additional_chat_templates/*") for file in Path(folder).glob(pattern))
    return sorted(
        file for file in found if is_tokenizer_name(file.relative_to(folder).as_posix()) and not file.is_dir()
    )


def load_tokenizer(path: str | Path, trust_remote_code: bool = False, revision: str | None = None) -> Any:
    """A tokenizer of transformers from a folder or by name. Raises ConfigError in one line."""
    from transformers import AutoTokenizer

    folder = Path(path)
    local = folder.exists() or folder.is_absolute() or str(path).startswith((".", "~")) or str(path).count("/") > 1
    if local and not folder.is_dir():
        raise ConfigError(f"got tokenizer {path}, which is no folder; expected one with tokenizer.json in it")
    if local:
        _check_files(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code, revision=revision)
    except Exception as error:  # transformers raises a dozen classes for a broken folder
        if not folder.exists():
            raise ConfigError(
                f"got tokenizer {path}, which is neither a folder nor one that can be fetched; "
                "expected a folder with tokenizer.json, or a name"
            ) from error
        words = one_line(error)
        raise ConfigError(
            f"cannot load a tokenizer from {path}: {words[:200]}; expected a folder with tokenizer.json, or a name"
        ) from error
    if not isinstance(tokenizer.model_max_length, int | float):
        raise ConfigError(
            f"got tokenizer {path} with model_max_length {tokenizer.model_max_length!r:.80}, expected a number of "
            "tokens: mend its tokenizer_config.json"
        )
    if dropout := getattr(getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None), "dropout", None):
        raise ConfigError(
            f"got tokenizer {path} with BPE dropout {dropout:g}, which gives other tokens each time; set model.dropout "
            "to null in its tokenizer.json"
        )
    return tokenizer


def _check_files(folder: Path) -> None:
    """Raises ConfigError for a file that might not end, or that no tokenizer has the size of."""
    for path in [*tokenizer_files(folder), folder / "config.json"]:
        try:
            check_regular(path, MOST_BYTES)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigError(f"cannot load a tokenizer from {folder}: {path.name}: {fault(error)}") from None


def save_tokenizer(tokenizer: Any, folder: str | Path) -> None:
    """Write its files, the same bytes wherever it was loaded from."""
    if _backend(tokenizer) is not None:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(str(folder))
    path = Path(folder) / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in (*HOST_KEYS, CODE)}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def set_in_folder(folder: str | Path, **settings: Any) -> None:
    """Change settings of the tokenizer saved in a folder, such as model_max_length: its tokenizer_config.json."""
    path = Path(folder) / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | settings
    path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def gives_types(tokenizer: Any) -> bool:
    """Whether it declares token types: whoever calls it of its own accord then gets and feeds them."""
    return "token_type_ids" in tokenizer.model_input_names


def padding_id(tokenizer: Any) -> int:
    """The token of padding: the tokenizer's own, else its end of text."""
    found = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((int(token) for token in found if token is not None), 0)


def tokenizing_libraries(tokenizer: Any, *, chats: bool) -> list[str]:
    """The packages whose versions decide what tokens a text becomes. chats: whether a chat template makes the text."""
    names = ["tokenizers", "transformers", *(["jinja2"] if chats else [])]
    if not tokenizer.is_fast:
        names += [name for name in ("sentencepiece", "tiktoken", "mistral_common") if name in sys.modules]
    return names


def vocabulary_size(tokenizer: Any) -> int:
    """Its highest id + 1, added tokens included."""
    return max(tokenizer.get_vocab().values()) + 1


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256 hex: equal for a tokenizer and its saved copy, different when any text may become other tokens."""
    backend = _backend(tokenizer)
    if backend is None:
        model: object = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    else:
        content = json.loads(backend)
        model = {key: value for key, value in content.items() if key not in NOT_OF_TOKENS}
        # Which of the tokens are special changes what decoding leaves out, not what text becomes.
        model["added_tokens"] = [
            {key: value for key, value in token.items() if key != "special"} for token in content["added_tokens"]
        ]
    described = {"model": model, "around": _around(tokenizer)}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def tokenizer_difference(first: Any, second: Any) -> str | None:
    """Why two tokenizers are not one vocabulary, in words that end a sentence; None where they are one."""
    if tokenizer_digest(first) == tokenizer_digest(second):
        return None
    one, other = first.get_vocab(), second.get_vocab()
    differing = sorted((i, token) for token, i in one.items() if other.get(token) != i)
    if differing:
        i, token = differing[0]
        theirs = other.get(token)
        which = "is not in the other" if theirs is None else f"is {theirs} in the other"
        return f"token {i}, {token!r}, {which}, and so for {len(differing):,} of {len(one):,}"
    if len(other) > len(one):
        return f"the other has {len(other) - len(one):,} tokens more"
    if _around(first) != _around(second):
        return f"the tokens around a text differ: 'a' is {_around(first)[0]} and {_around(second)[0]}"
    return "the ids are the same, but they cut text into tokens in other ways"


def _around(tokenizer: Any) -> list[list[int]]:
    """Ids of a text and of a pair, with the special tokens that are put around them."""
    return [[*tokenizer("a")["input_ids"]], [*tokenizer("a", "a")["input_ids"]]]


def _backend(tokenizer: Any) -> str | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else backend.to_str()
