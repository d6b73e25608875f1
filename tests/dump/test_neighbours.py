"""Records of teachers that neighbours would change: those each example has alone; how that is said and pinned."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from classes import MOODS, make_classifier, moods, write_rows
from helpers import files_of, make_tokenizer
from many_models import BART, CAUSAL, SEQUENCE, T5, model_of
from tokenizers import processors

import kdcache
from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.errors import TeacherError
from kdcache.launcher import World

Make = Callable[..., DumpConfig]
NAMES = dict(enumerate(MOODS))


def language_teacher(folder: Path, name: str, **changes: Any) -> dict[str, str]:
    model_of(transformers.AutoModelForCausalLM, name, CAUSAL[name][0] | changes).save_pretrained(folder)
    make_tokenizer(folder)
    return {"path": str(folder), "dtype": "float32"}


def stored(cache: kdcache.Cache) -> torch.Tensor:
    targets = cache.read(0, len(cache)).targets()
    return targets.dense_log_probs(1.0)


def documents_alone(cache: kdcache.Cache, model: Any) -> torch.Tensor:
    rows = []
    for number in range(len(cache)):
        batch = cache.read(number, number + 1)
        tokens, ends = batch.tokens(0), np.cumsum(batch.documents(0))
        pieces = [torch.from_numpy(piece)[None] for piece in np.split(tokens, ends[:-1])]
        rows.append(torch.cat([model(input_ids=piece).logits[0] for piece in pieces])[batch.positions(0)])
    return torch.cat(rows)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mamba", "phi3 longrope"])
def test_packed_documents_of_any_teacher_are_recorded_as_if_alone(
    make_config: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    record = {"kind": "dense", "logit_dtype": "float32"}
    config = make_config(tmp_path / "c", teacher=language_teacher(tmp_path / "teacher", name), record=record)
    for rank in range(2):
        run_dump(config, World(rank, 2))
    said = capfd.readouterr().err
    assert "does not keep packed documents apart (log-probabilities are off by" in said
    cache = kdcache.open_cache(tmp_path / "c")
    assert cache.manifest.header.compute["apart"] is True
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "teacher").eval()
    expected = documents_alone(cache, model)[:, : cache.manifest.header.num_classes].log_softmax(-1)
    torch.testing.assert_close(stored(cache), expected, rtol=0, atol=1e-4)
    before = files_of(tmp_path / "c")
    (tmp_path / "c" / "shards/000" / "000003.json").unlink()
    run_dump(config, World())
    assert files_of(tmp_path / "c") == before
    assert "does not keep" not in capfd.readouterr().err, "what the header pins was found out again"


@pytest.mark.parametrize("name", ["opt", "mamba", "bloom"])
def test_nothing_is_asked_of_teachers_of_single_documents(
    make_config: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    task = {"packing": "documents", "overlong": "drop", "sequence_length": 128}
    run_dump(make_config(tmp_path / "c", teacher=language_teacher(tmp_path / "t", name), task=task), World())
    assert "apart" not in capfd.readouterr().err
    compute = kdcache.open_cache(tmp_path / "c").manifest.header.compute
    assert (compute["together"], compute["apart"]) == ("any", False)


def test_a_teacher_that_sees_the_next_token_is_refused(make_config: Make, tmp_path: Path) -> None:
    teacher = language_teacher(tmp_path / "t", "bert")
    with pytest.raises(TeacherError, match=r"BertLMHeadModel lets a token see those after it.* is_decoder: true"):
        run_dump(make_config(tmp_path / "c", teacher=teacher), World())


def classification(tmp_path: Path, **changes: Any) -> DumpConfig:
    write_rows(tmp_path / "moods.jsonl", moods(40))
    settings = {
        "output": str(tmp_path / "c"),
        "corpus": {"paths": str(tmp_path / "moods.jsonl"), "format": "jsonl", "label_field": "label"},
        "teacher": {"path": str(tmp_path / "teacher"), "dtype": "float32"},
        "task": {"name": "sequence_classification", "max_length": 32},
        "record": [{"kind": "dense", "logit_dtype": "float32"}, {"kind": "features"}],
        "compute": {"batch_tokens": 160, "threads": 1},
    }
    return DumpConfig.model_validate(settings | changes)


def classifier(folder: Path, name: str, settings: dict[str, Any], *, end: bool = False, **special: Any) -> Any:
    """A teacher of moods with a tokenizer of words in pieces. end: one that puts [SEP] after a text and no [CLS]."""
    make_classifier(folder, "sequence_classification", tuple(MOODS))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if end:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="$A [SEP]", special_tokens=[("[SEP]", 3)]
        )
    for token, value in special.items():
        setattr(tokenizer, token, value)
    tokenizer.save_pretrained(folder)
    auto_class = transformers.AutoModelForSequenceClassification
    model = model_of(auto_class, name, settings, id2label=NAMES, label2id={n: i for i, n in NAMES.items()})
    model.save_pretrained(folder)
    return auto_class.from_pretrained(folder).eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bart", BART | {"pad_token_id": 0, "eos_token_id": 3, "hidden_size": 32}),
        ("t5", T5 | {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0}),
        ("xlnet", SEQUENCE["xlnet"][0] | {"pad_token_id": 0}),
        ("fnet", SEQUENCE["fnet"][0] | {"pad_token_id": 0, "type_vocab_size": 1}),
    ],
)
def test_each_text_is_recorded_as_it_is_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, settings: dict[str, Any]
) -> None:
    """BART and T5 want the </s> that the run's own rows have; XLNet's padding on the right is not read."""
    model = classifier(tmp_path / "teacher", name, settings, end=True)
    run_dump(classification(tmp_path, record={"logit_dtype": "float32"}), World())
    cache = kdcache.open_cache(tmp_path / "c")
    batch = cache.read(0, 40)
    expected = torch.cat([model(input_ids=torch.from_numpy(batch.tokens(i))[None]).logits for i in range(40)])
    torch.testing.assert_close(stored(cache), expected.log_softmax(-1), rtol=0, atol=1e-4)
    apart = SEQUENCE[name][1] == "equal"
    assert ("gives an example other logits beside others in its batch" in capfd.readouterr().err) == apart
    assert cache.manifest.header.compute["together"] == ("equal" if apart else "any")


@torch.no_grad()
@pytest.mark.parametrize("own_padding", [None, 3])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_decoders_head_and_features_read_one_token_where_padding_is_a_real_one(
    tmp_path: Path, name: str, own_padding: int | None
) -> None:
    """Every text ends in [SEP], which pads too: the tokenizer has no other. A config may name it, or none."""
    settings = SEQUENCE[name][0] | {"pad_token_id": own_padding, "eos_token_id": 3}
    model = classifier(
        tmp_path / "teacher", name, settings, end=True, pad_token=None, eos_token="[SEP]", cls_token=None
    )
    assert model.config.pad_token_id == own_padding
    run_dump(classification(tmp_path), World())
    cache = kdcache.open_cache(tmp_path / "c")
    batch = cache.read(0, 40)
    assert all(batch.tokens(i)[-1] == 3 for i in range(40))
    rows = [torch.from_numpy(batch.tokens(i))[None] for i in range(40)]
    expected = torch.cat([model(input_ids=row).logits for row in rows]).log_softmax(-1)
    torch.testing.assert_close(stored(cache), expected, rtol=0, atol=1e-4)
    assert batch.features is not None
    heads = model.score(torch.from_numpy(np.array(batch.features)).float()).log_softmax(-1)
    torch.testing.assert_close(heads, expected, rtol=0, atol=5e-3)


def test_units_with_refused_rows_do_not_hide_the_rest(make_config: Make, tmp_path: Path) -> None:
    """The teacher is tried out on the first unit that gives examples."""
    corpus = tmp_path / "some.jsonl"
    texts = ["teacher " * 40] + ["cache teacher"] * 30
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    task = {"packing": "documents", "sequence_length": 32}
    config = make_config(tmp_path / "c", corpus={"paths": str(corpus)}, task=task)
    run_dump(config, World(1, 2))
    assert (tmp_path / "c" / "shards/000" / "000001.json").exists()
