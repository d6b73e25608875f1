import json
import shutil
from pathlib import Path

import pytest

from kdcache.errors import ConfigError
from kdcache.tasks.tokenizer import load_tokenizer, save_tokenizer, tokenizer_digest


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
    base = tokenizer_digest(kit.byte_level())
    other_end = kit.byte_level()
    other_end.eos_token = "<|im_end|>"
    more = kit.byte_level()
    more.add_tokens(["quux"])
    variants = [other_end, more, kit.byte_level(kit.CHATML), kit.byte_level(kit.CHATML.replace("\n", " "))]
    digests = [tokenizer_digest(tokenizer) for tokenizer in variants]
    assert len({base, *digests}) == 5
    assert base == tokenizer_digest(kit.byte_level())


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
