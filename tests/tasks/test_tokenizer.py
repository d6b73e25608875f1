import json
import shutil
from pathlib import Path

import pytest
from tokenizers import normalizers, processors

from kdcache.errors import ConfigError
from kdcache.tasks.tokenizer import (
    has_tokenizer,
    load_tokenizer,
    save_tokenizer,
    tokenizer_difference,
    tokenizer_digest,
    tokenizer_files,
)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_saved_copy_has_the_same_digest_and_bytes(tmp_path, any_tokenizer):
    save_tokenizer(any_tokenizer, tmp_path / "one")
    assert tokenizer_digest(load_tokenizer(tmp_path / "one")) == tokenizer_digest(any_tokenizer)
    assert "tokenizer.json" in contents(tmp_path / "one")
    (tmp_path / "deeper").mkdir()
    save_tokenizer(load_tokenizer(tmp_path / "one"), tmp_path / "deeper" / "two")
    assert contents(tmp_path / "deeper" / "two") == contents(tmp_path / "one")
    text = "The quick idée 深い <|im_end|>"
    assert load_tokenizer(tmp_path / "deeper" / "two")(text)["input_ids"] == any_tokenizer(text)["input_ids"]


def test_a_teachers_folder_and_the_copy_agree(tmp_path, gpt_tokenizer):
    save_tokenizer(gpt_tokenizer, tmp_path / "teacher")
    config = json.loads((tmp_path / "teacher" / "tokenizer_config.json").read_text())
    config |= {"model_max_length": 99, "name_or_path": "/models/teacher", "local_files_only": False}
    (tmp_path / "teacher" / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "teacher" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "teacher" / "config.json").write_text('{"model_type": "llama"}')
    save_tokenizer(load_tokenizer(tmp_path / "teacher"), tmp_path / "cache")
    for folder in ("teacher", "cache"):
        assert tokenizer_digest(load_tokenizer(tmp_path / folder)) == tokenizer_digest(gpt_tokenizer)
    assert set(contents(tmp_path / "cache")) == {"tokenizer.json", "tokenizer_config.json"}
    assert "models" not in (tmp_path / "cache" / "tokenizer_config.json").read_text()


def test_what_changes_tokens_changes_the_digest(kit):
    more, cut_otherwise = kit.byte_level(), kit.byte_level()
    more.add_tokens(["quux"])
    cut_otherwise.backend_tokenizer.normalizer = normalizers.Lowercase()
    around = kit.byte_level()
    around.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", pair="<|endoftext|> $A $B", special_tokens=[("<|endoftext|>", 0)]
    )
    base = kit.byte_level()
    others = (more, cut_otherwise, around, kit.sentence_piece_like())
    assert len({tokenizer_digest(tokenizer) for tokenizer in (base, *others)}) == 5
    why = [tokenizer_difference(base, tokenizer) for tokenizer in (kit.byte_level(), *others)]
    assert why[0] is None
    assert why[1] == "the other has 1 tokens more"
    assert why[2] == "the ids are the same, but they cut text into tokens in other ways"
    assert why[3].startswith("the tokens around a text differ")
    assert why[4].startswith("token 0, '<|endoftext|>', is not in the other, and so for")


def test_a_base_model_and_its_instructed_sibling_are_one_vocabulary(kit, tmp_path):
    """The template, the end of text and the token of padding may be others; an id may not."""
    base = kit.byte_level()
    instructed = kit.byte_level(kit.CHATML, pad_token="<|eot|>")
    instructed.eos_token = "<|im_end|>"
    save_tokenizer(instructed, tmp_path / "instructed")
    for other in (instructed, load_tokenizer(tmp_path / "instructed")):
        assert tokenizer_digest(other) == tokenizer_digest(base)
        assert tokenizer_difference(base, other) is None


def test_use_does_not_change_the_digest(tmp_path, kit):
    tokenizer = kit.byte_level(pad_token="<|endoftext|>")
    before = tokenizer_digest(tokenizer)
    save_tokenizer(tokenizer, tmp_path / "a")
    tokenizer("hello world", truncation=True, max_length=1, padding="max_length")
    assert tokenizer_digest(tokenizer) == before
    save_tokenizer(tokenizer, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_broken_folders_give_one_line(tmp_path, gpt_tokenizer):
    (tmp_path / "empty").mkdir()
    save_tokenizer(gpt_tokenizer, tmp_path / "spoiled")
    (tmp_path / "spoiled" / "tokenizer.json").write_text('{"model": ')
    shutil.copytree(tmp_path / "spoiled", tmp_path / "wrong")
    (tmp_path / "wrong" / "tokenizer.json").write_text('{"model": {"type": "nothing"}}')
    (tmp_path / "file").write_text("a")
    for name in ("none", "empty", "spoiled", "wrong", "file"):
        with pytest.raises(ConfigError) as caught:
            load_tokenizer(tmp_path / name)
        message = str(caught.value)
        assert "\n" not in message
        assert str(tmp_path / name) in message
        assert "expected" in message
    with pytest.raises(ConfigError, match="no/such-tokenizer, which is neither a folder nor one that"):
        load_tokenizer("no/such-tokenizer")


def test_tokens_that_are_drawn_by_chance_are_refused(kit, tmp_path):
    kit.byte_level().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["dropout"] = 0.1
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"with BPE dropout 0.1, which gives other tokens each time; set"):
        load_tokenizer(tmp_path)


def test_the_files_of_a_tokenizer_are_told_from_a_models(tmp_path):
    names = ["merges.txt", "spm.model", "tokenizer.json", "vocab.bpe", "added_tokens.json", "chat_template.jinja"]
    for name in (*names, "config.json", "generation_config.json", "model.safetensors", "README.md"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "vocabularies").mkdir()
    assert [file.name for file in tokenizer_files(tmp_path)] == sorted(names)
    assert has_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert not has_tokenizer(tmp_path)
