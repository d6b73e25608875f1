"""Special ids are the tokenizer's: of fresh students of many families, in both config files, and of folders."""

from pathlib import Path
from typing import Any

import pytest
import torch
from classes import moods, word_piece, write_rows
from helpers import make_model, make_tokenizer
from train.tiny import student_config, write_cache

from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.errors import ConfigError
from kdcache.launcher import World
from kdcache.models.saving import write_model
from kdcache.store.cache import Cache, open_cache
from kdcache.students.making import make_student
from kdcache.students.settings import StudentConfig

BARE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
GATED = BARE | {"intermediate_size": 16, "num_key_value_heads": 1, "head_dim": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GATED,
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
    "olmo2": GATED,
    "qwen3": GATED,
    "opt": BARE | {"ffn_dim": 16, "word_embed_proj_dim": 16},
    "gemma": GATED,
    "gemma3_text": GATED,
    "helium": GATED,
    "xglm": {"d_model": 16, "num_layers": 1, "attention_heads": 2, "ffn_dim": 16},
    "ernie4_5": GATED,
    "phi3": BARE | {"intermediate_size": 16, "num_key_value_heads": 1},
    "smollm3": BARE | {"intermediate_size": 16, "num_key_value_heads": 1},
    "mistral": GATED,
    "qwen2": BARE | {"intermediate_size": 16, "num_key_value_heads": 1},
    "granite": BARE | {"intermediate_size": 16, "num_key_value_heads": 1},
    "cohere": BARE | {"intermediate_size": 16, "num_key_value_heads": 1},
    "falcon": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "bloom": {"hidden_size": 16, "n_layer": 1, "n_head": 2},
    "mamba": {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4},
}
END, PAD = 0, 0
"""Of the tokenizer of tests/helpers.py: its end of text is its padding too, and it has no start."""


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cache]:
    """Of windows that see each other, so that any body will do; with a tokenizer and without."""
    root = tmp_path_factory.mktemp("special")
    make_tokenizer(root / "tokenizer")
    task = {"name": "causal_lm", "attention": "causal"}
    with_one = write_cache(root / "cache", examples=2, classes=320, task=task, tokenizer=root / "tokenizer")
    return {"with": open_cache(with_one), "without": open_cache(write_cache(root / "bare", examples=2, task=task))}


def of_config(cache: Cache, model_type: str, **changes: Any) -> Any:
    return make_student(StudentConfig(config={"model_type": model_type, **FAMILIES[model_type], **changes}), cache, 0)


class EndsAfter(torch.nn.Module):
    """Makes any model prefer the end of text from the third new token on."""

    def __call__(self, ids_BL: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        scores_BV = scores_BV.clone()
        scores_BV[:, END] = 1e4 if ids_BL.shape[1] >= 6 else -1e4
        return scores_BV


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_student_of_any_family_has_the_tokenizers_ids_and_stops(
    caches: dict[str, Cache], tmp_path: Path, family: str
) -> None:
    from transformers import AutoModelForCausalLM

    student = of_config(caches["with"], family)
    table = student.get_input_embeddings()
    assert not (table.weight == 0).all(-1).any()
    student(input_ids=torch.arange(320).reshape(8, 40)).logits.square().sum().backward()
    assert not (table.weight.grad == 0).all(-1).any()

    weights = {name: weight.detach() for name, weight in student.named_parameters()}
    write_model(student.config, weights, tmp_path, dtype=torch.float32, like=student)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    for holder in (saved.config, saved.generation_config):
        assert (holder.bos_token_id, holder.eos_token_id) == (None, END)
    assert saved.config.pad_token_id is None
    assert saved.generation_config.pad_token_id == PAD
    prompt = torch.tensor([[5, 6, 7], [8, 9, 10]])
    found = saved.generate(prompt, max_new_tokens=12, do_sample=True, logits_processor=[EndsAfter()])
    assert found.shape == (2, 7)
    assert (found[:, -1] == END).all()


@pytest.mark.parametrize("family", ["olmo2", "phi3", "smollm3", "cohere"])
def test_without_a_tokenizer_a_student_names_no_token(caches: dict[str, Cache], family: str) -> None:
    """As these type's defaults are of vocabularies of their own, some of them beyond this one."""
    student = of_config(caches["without"], family)
    config = student.config
    assert [config.bos_token_id, config.eos_token_id, config.pad_token_id] == [None] * 3
    assert not (student.get_input_embeddings().weight == 0).all(-1).any()


def test_what_the_user_wrote_stays(caches: dict[str, Cache]) -> None:
    student = of_config(caches["with"], "llama", eos_token_id=[0, 2], pad_token_id=7, bos_token_id=1)
    for holder in (student.config, student.generation_config):
        assert (holder.bos_token_id, holder.eos_token_id, holder.pad_token_id) == (1, [0, 2], 7)
    assert student.get_input_embeddings().weight[7].any()


@pytest.mark.parametrize(("cache", "message"), [("with", "a token of the cache's 320"), ("without", "of the 300")])
def test_an_id_that_is_none_is_refused(caches: dict[str, Cache], cache: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"got student.config.eos_token_id 50279, expected .*{message}.*; or leave"):
        of_config(caches[cache], "llama", eos_token_id=[0, 50279])


def test_a_token_of_padding_alone_stays_in_the_config(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    make_tokenizer(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer", pad_token="<|im_start|>", bos_token="<|im_end|>")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    path = write_cache(tmp_path / "cache", examples=2, classes=320, tokenizer=tmp_path / "tokenizer")
    student = make_student(
        StudentConfig(config=student_config(model_type="olmo2", vocab_size=320)), open_cache(path), 0
    )
    for holder in (student.config, student.generation_config):
        assert (holder.bos_token_id, holder.eos_token_id, holder.pad_token_id) == (2, 0, 1)


WIDE = BARE | {"intermediate_size": 16, "max_position_embeddings": 66}
ENCODER_DECODER = {"d_model": 16, "num_heads": 2, "d_ff": 16, "num_layers": 1, "d_kv": 8}
CLASSIFIERS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(["bert", "roberta", "xlm-roberta", "electra", "deberta-v2", "modernbert", "llama"], WIDE),
    "albert": WIDE | {"embedding_size": 8},
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16},
    "gpt2": FAMILIES["gpt2"],
    "t5": ENCODER_DECODER,
    "bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    | {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64},
    "kdcache_embedding_bag": {"embedding_size": 8, "hidden_size": 8},
}


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cache]:
    """Labels alone, by a tokenizer with [CLS] and [SEP], and by one whose end of text is its padding."""
    root = tmp_path_factory.mktemp("classified")
    word_piece().save_pretrained(root / "pieces")
    make_tokenizer(root / "bytes")
    rows = write_rows(root / "rows.jsonl", moods(8))
    for tokenizer in ("pieces", "bytes"):
        settings = {
            "output": str(root / f"of-{tokenizer}"),
            "corpus": {"paths": str(rows), "format": "jsonl", "label_field": "label"},
            "teacher": "none",
            "tokenizer": str(root / tokenizer),
            "task": {"name": "sequence_classification", "max_length": 64},
        }
        run_dump(DumpConfig.model_validate(settings), World())
    return {name: open_cache(root / f"of-{name}") for name in ("pieces", "bytes")}


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_a_classifiers_ids_are_special_tokens_of_the_tokenizer(classified: dict[str, Cache], family: str) -> None:
    settings = StudentConfig(config={"model_type": family, **CLASSIFIERS[family]})
    config = make_student(settings, classified["pieces"], 0).config
    named = {key: value for key, value in config.to_dict().items() if key.endswith("_token_id")}
    assert named["pad_token_id"] == 0
    assert {value for value in named.values() if value is not None} <= {0, 1, 2, 3}
    assert named.get("sep_token_id", 3) == 3
    if family in ("t5", "bart"):
        assert named["decoder_start_token_id"] == (0 if family == "t5" else 3)


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "kdcache_embedding_bag"])
def test_a_classifiers_end_of_text_learns_where_it_is_padding_too(classified: dict[str, Cache], family: str) -> None:
    student = make_student(StudentConfig(config={"model_type": family, **CLASSIFIERS[family]}), classified["bytes"], 0)
    assert student.config.pad_token_id == END
    table = student.get_input_embeddings()
    assert table.weight[END].any()
    ids = torch.tensor([[5, END, 6, 7]])
    student(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.square().sum().backward()
    assert table.weight.grad[END].any()


OWN = [
    ({"eos_token_id": [2, 0], "pad_token_id": 1}, {}, None),
    ({"eos_token_id": 0, "bos_token_id": None}, {}, None),
    ({"eos_token_id": 2}, {"eos_token_id": [0, 2]}, r"eos_token_id 2 becomes \[0, 2\]"),
    ({"eos_token_id": 50279, "bos_token_id": 1}, {"eos_token_id": 0}, "eos_token_id 50279 becomes 0"),
    (
        {"eos_token_id": 44, "bos_token_id": 43},
        {"eos_token_id": 0, "bos_token_id": None},
        "bos_token_id 43 becomes none",
    ),
    ({"eos_token_id": None}, {"eos_token_id": 0}, "eos_token_id none becomes 0"),
    ({"pad_token_id": 99}, {"pad_token_id": None}, "pad_token_id 99 becomes none"),
]


@pytest.mark.parametrize(("own", "mended", "said"), OWN)
def test_a_folder_keeps_its_ids_where_they_are_special_tokens_and_agree(
    caches: dict[str, Cache],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    own: dict[str, Any],
    mended: dict[str, Any],
    said: str | None,
) -> None:
    import json

    make_model(tmp_path)
    for name in ("config.json", "generation_config.json"):
        path = tmp_path / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token_id": None, "eos_token_id": 0} | own))
    student = make_student(StudentConfig(path=str(tmp_path)), caches["with"], 0)
    told = capsys.readouterr().err
    for holder in (student.config, student.generation_config):
        expected = {"bos_token_id": None, "eos_token_id": 0} | own | mended
        if holder is student.generation_config and expected.get("pad_token_id") is None:
            expected["pad_token_id"] = PAD
        assert {key: getattr(holder, key) for key in expected} == expected
    assert student.get_input_embeddings().padding_idx is None
    if said is None:
        assert not told
    else:
        import re

        assert re.search(
            rf"{re.escape(str(tmp_path))} names special tokens that its tokenizer does not: .*{said}", told
        )
        assert told.count("\n") == 1
