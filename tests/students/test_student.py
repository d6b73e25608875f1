from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import make_model, make_tokenizer, sentences
from train.tiny import student_config, write_cache

from kdcache.errors import KdcacheError, StudentError
from kdcache.report.evaluate import evaluate_students
from kdcache.store.cache import Cache, open_cache
from kdcache.students.collate import Collator
from kdcache.students.making import make_student
from kdcache.students.settings import StudentConfig


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return open_cache(write_cache(tmp_path_factory.mktemp("student") / "cache", examples=8))


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache of 320 classes with the tokenizer of tests/helpers.py."""
    root = tmp_path_factory.mktemp("tokenized")
    make_tokenizer(root / "tokenizer")
    return open_cache(write_cache(root / "cache", examples=8, classes=320, tokenizer=root / "tokenizer"))


def from_config(**changes: Any) -> StudentConfig:
    return StudentConfig(config=student_config(**changes))


def test_the_same_seed_makes_the_same_student(cache: Cache) -> None:
    first, again, other = (make_student(from_config(), cache, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_classes_default_to_the_cache_and_may_be_more(cache: Cache) -> None:
    settings = student_config()
    del settings["vocab_size"]
    assert make_student(StudentConfig(config=settings), cache, 0).config.vocab_size == 300
    assert make_student(from_config(vocab_size=310), cache, 0).config.vocab_size == 310


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"vocab_size": 299}, 1, r"got a student with 299 classes \(vocab_size\), expected at least the cache's 300"),
        ({"model_type": "lama"}, 2, r"model_type lama, which transformers does not know; did you mean llama\?"),
        ({"hidden_sise": 3}, 2, r"unknown key student.config.hidden_sise for llama; did you mean hidden_size\?"),
        ({"hidden_size": "wide"}, 1, r"no llama student can be made of student.config"),
    ],
)
def test_a_config_that_does_not_fit(cache: Cache, changes: dict[str, Any], status: int, message: str) -> None:
    with pytest.raises(KdcacheError, match=message) as caught:
        make_student(from_config(**changes), cache, 0)
    assert caught.value.exit_status == status
    assert "\n" not in str(caught.value)


def test_a_student_too_short_for_the_examples(tmp_path: Path) -> None:
    task = {"name": "causal_lm", "attention": "document", "sequence_length": 65}
    cache = open_cache(write_cache(tmp_path / "cache", examples=4, task=task))
    with pytest.raises(StudentError, match=r"got a student of 64 positions .*, expected at least 65"):
        make_student(from_config(), cache, 0)


def test_an_example_longer_than_the_student(cache: Cache) -> None:
    """Caches written by hand need not say how long their examples are; then the batch that holds one tells."""
    short = make_student(from_config(max_position_embeddings=8), cache, 0)
    with pytest.raises(StudentError, match="got a student of 8 positions"):
        Collator(short, cache)(cache.read(0, 8))


def test_a_student_whose_body_mixes_documents(cache: Cache) -> None:
    recurrent = {"model_type": "mamba", "hidden_size": 16, "state_size": 4, "num_hidden_layers": 1}
    with pytest.raises(KdcacheError, match="does not keep packed documents apart"):
        make_student(StudentConfig(config=recurrent), cache, 0)


def test_a_folder_is_loaded_as_it_is(tokenized: Cache, tmp_path: Path) -> None:
    make_model(tmp_path)
    student = make_student(StudentConfig(path=str(tmp_path)), tokenized, 0)
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(student.state_dict()[key], value) for key, value in saved.items())


def test_a_folder_with_the_caches_tokenizer_is_accepted_whatever_its_files(tokenized: Cache, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    make_model(tmp_path)
    make_tokenizer(tmp_path)
    AutoTokenizer.from_pretrained(tmp_path, model_max_length=77).save_pretrained(tmp_path)
    make_student(StudentConfig(path=str(tmp_path)), tokenized, 0)


def test_a_folder_with_another_tokenizer_is_refused(tokenized: Cache, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    make_model(tmp_path)
    make_tokenizer(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path).train_new_from_iterator(sentences(50, seed=9), 300)
    other.save_pretrained(tmp_path)
    with pytest.raises(StudentError, match=r"the tokenizer in .* is not the cache's"):
        make_student(StudentConfig(path=str(tmp_path)), tokenized, 0)


def test_folders_that_are_no_student(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(StudentError, match=r"expected a folder with config.json and model.safetensors"):
        make_student(StudentConfig(path=str(tmp_path)), cache, 0)
    make_model(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StudentError, match="does not load") as caught:
        make_student(StudentConfig(path=str(tmp_path)), cache, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("beside_its_base", [True, False])
def test_a_folder_of_an_adapter_is_no_student_without_its_adapter(
    cache: Cache, tmp_path: Path, beside_its_base: bool
) -> None:
    """transformers would load the base alone where peft is not installed."""
    if beside_its_base:
        make_model(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "base"}')
    told = "does not load: .*it holds a PEFT adapter .*, expected a whole model: load it with peft, merge_and_unload"
    with pytest.raises(StudentError, match=told):
        make_student(StudentConfig(path=str(tmp_path)), cache, 0)
    with pytest.raises(StudentError, match=told):
        evaluate_students([str(tmp_path)], cache=cache.root.url)


def test_a_folder_that_lacks_weights_is_not_filled_with_random_ones(cache: Cache, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    make_model(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StudentError, match=r"lacks 1 of the weights of LlamaForCausalLM, the first model.norm.weight"):
        make_student(StudentConfig(path=str(tmp_path)), cache, 0)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(cache: Cache, tmp_path: Path, broken: float) -> None:
    """In training, and by `kdcache eval`."""
    make_model(tmp_path)
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, :3] = broken
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    told = r"weight model.layers.1.mlp.up_proj.weight holds NaN or infinity in 3 of its 2,048 numbers"
    with pytest.raises(StudentError, match=told):
        make_student(StudentConfig(path=str(tmp_path)), cache, 0)
    with pytest.raises(StudentError, match=told):
        evaluate_students([str(tmp_path)], cache=cache.root.url)


def test_gradient_checkpointing_is_turned_on(cache: Cache) -> None:
    config = StudentConfig(config=student_config(), gradient_checkpointing=True)
    assert make_student(config, cache, 0).is_gradient_checkpointing
