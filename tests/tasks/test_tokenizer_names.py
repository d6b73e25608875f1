"""A tokenizer's files bear names of a closed list, so that none of them is a file that a model's folder has anyway."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from kdcache.tasks.tokenizer import save_tokenizer, tokenizer_files
from kdcache.tasks.tokenizer_names import check_tokenizer_file, check_tokenizer_name, is_tokenizer_name

NOT_ITS_OWN = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "README.md",
    "modeling_evil.py",
    "tokenization_evil.py",
    "tokenizer.py",
    "vocab.py",
    "sitecustomize.py",
    "../tokenizer.json",
    "a/tokenizer.json",
    "additional_chat_templates/../config.json",
    "additional_chat_templates/x.py",
    "additional_chat_templates/a/b.jinja",
    "preprocessor_config.json",
    "chat_template.jinja.py",
    "",
]


@pytest.mark.parametrize("name", NOT_ITS_OWN)
def test_other_names_are_refused(name: str) -> None:
    assert not is_tokenizer_name(name)
    with pytest.raises(ValueError, match="expected one that tokenizers save"):
        check_tokenizer_name(name)


def test_whatever_a_tokenizer_saves_is_on_the_list(kit: Any, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    for number, make in enumerate((kit.byte_level, kit.sentence_piece_like)):
        folder = tmp_path / str(number)
        tokenizer = make(template)
        tokenizer.chat_template = {"default": template, "tool_use": template}
        save_tokenizer(tokenizer, folder)
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert {"tokenizer.json", "additional_chat_templates/tool_use.jinja"} <= names
        assert {path.relative_to(folder).as_posix() for path in tokenizer_files(folder)} == names
        assert AutoTokenizer.from_pretrained(folder).chat_template.keys() == {"default", "tool_use"}


def test_names_of_every_tokenizer_of_transformers_are_on_the_list() -> None:
    """The fixed names of vocabulary files, of those whose module imports here."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    found: dict[str, str] = {}
    for classes in TOKENIZER_MAPPING_NAMES.values():
        for name in filter(None, classes if isinstance(classes, tuple) else (classes,)):
            try:
                files = getattr(tokenizer_class_from_name(name), "vocab_files_names", {})
            except Exception:  # a package that it needs is not installed
                continue
            found |= dict.fromkeys(files.values(), name)
    assert len(found) > 10
    assert {file: name for file, name in found.items() if not is_tokenizer_name(file)} == {}


def test_code_is_refused() -> None:
    check_tokenizer_file("tokenizer_config.json", b"{}")
    for data, message in {
        b'{"auto_map": {"AutoTokenizer": ["evil.Evil", null]}}': r"names code to run \(auto_map\)",
        b"[]": "is no JSON object",
        b"{": "is not JSON",
    }.items():
        with pytest.raises(ValueError, match=message):
            check_tokenizer_file("tokenizer_config.json", data)
