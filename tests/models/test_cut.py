"""Cutting real small models of four architectures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import make_tokenizer

from kdcache.errors import ConfigError, TeacherError
from kdcache.models.cut import check_same_maths, cut

IDS = torch.arange(1, 13)[None]


def make(folder: Path, name: str) -> Any:
    import transformers

    torch.manual_seed(0)
    common = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    wide = common | {"intermediate_size": 64, "num_key_value_heads": 2, "initializer_range": 0.3}
    makers = {
        "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**wide, tie_word_embeddings=True)),
        "gemma3": lambda: transformers.Gemma3ForCausalLM(
            transformers.Gemma3TextConfig(
                **wide,
                head_dim=8,
                sliding_window=4,
                layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            )
        ),
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=320, n_embd=32, n_layer=4, n_head=4, initializer_range=0.3)
        ),
        "gpt2 by number": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=320,
                n_embd=32,
                n_layer=4,
                n_head=4,
                initializer_range=0.5,
                scale_attn_by_inverse_layer_idx=True,
            )
        ),
        "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**common, intermediate_size=64)),
    }
    model = makers[name]().eval()
    model.save_pretrained(folder)
    return model


def load(folder: Path) -> Any:
    import transformers

    architecture = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    return getattr(transformers, architecture).from_pretrained(folder).eval()


ARCHITECTURES = ("llama", "gemma3", "gpt2", "bert")


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_all_layers_give_the_same_logits(tmp_path: Path, name: str) -> None:
    teacher = make(tmp_path / "teacher", name)
    whole = load(cut(tmp_path / "teacher", [0, 1, 2, 3], tmp_path / "whole"))
    assert torch.equal(whole(IDS).logits, teacher(IDS).logits)


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_some_layers_give_what_the_teacher_gives_without_the_others(tmp_path: Path, name: str) -> None:
    """The teacher's own forward with the other layers taken out of its list by hand."""
    teacher = make(tmp_path / "teacher", name)
    student = load(cut(tmp_path / "teacher", [0, 3], tmp_path / "student"))
    body = teacher.base_model
    for owner, attribute in ((body, "layers"), (body, "h"), (getattr(body, "encoder", None), "layer")):
        if hasattr(owner, attribute):
            layers = getattr(owner, attribute)
            setattr(owner, attribute, torch.nn.ModuleList([layers[0], layers[3]]))
    teacher.config.num_hidden_layers = 2
    if name == "gemma3":
        teacher.config.layer_types = ["sliding_attention", "full_attention"]
    torch.testing.assert_close(student(IDS).logits, teacher(IDS, use_cache=False).logits)
    assert student.config.num_hidden_layers == 2
    assert sum(p.numel() for p in student.parameters()) == sum(p.numel() for p in teacher.parameters())


def test_per_layer_settings_are_cut_too(tmp_path: Path) -> None:
    make(tmp_path / "teacher", "gemma3")
    assert load(cut(tmp_path / "teacher", [1, 2, 3], tmp_path / "out")).config.layer_types == [
        "full_attention",
        "sliding_attention",
        "full_attention",
    ]


def test_a_cut_model_generates_and_keeps_the_tokenizer_and_dtype(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    make(tmp_path / "teacher", "llama").bfloat16().save_pretrained(tmp_path / "teacher")
    make_tokenizer(tmp_path / "teacher")
    folder = cut(str(tmp_path / "teacher"), [1, 2], tmp_path / "deep" / "out")
    student = load(folder)
    assert student.dtype == torch.bfloat16
    assert student.generate(IDS, max_new_tokens=3, do_sample=False).shape == (1, 15)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (tmp_path / "teacher" / name).read_bytes()
    AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([0, 4], r"got layer 4, expected layers from 0 to 3: the teacher has 4"),
        ([-1, 2], r"got layer -1"),
        ([2, 1], r"got layers 2,1, expected ascending ones without repeats"),
        ([1, 1], r"got layers 1,1, expected ascending ones without repeats"),
        ([], r"got no layer, expected some of 0 to 3"),
    ],
)
def test_layers_that_cannot_be(tmp_path: Path, layers: list[int], message: str) -> None:
    make(tmp_path / "teacher", "llama")
    with pytest.raises(ConfigError, match=message):
        cut(tmp_path / "teacher", layers, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("layers", "refused"), [([0, 1], False), ([0, 3], True)])
def test_a_layer_that_divides_by_its_number(tmp_path: Path, layers: list[int], refused: bool) -> None:
    """GPT-2 with scale_attn_by_inverse_layer_idx."""
    make(tmp_path / "teacher", "gpt2 by number")
    if not refused:
        cut(tmp_path / "teacher", layers, tmp_path / "out")
        return
    with pytest.raises(ConfigError, match="got layer 3 of a GPT2LMHeadModel as layer 1, where it gives other numbers"):
        cut(tmp_path / "teacher", layers, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_a_layer_with_the_window_of_another(tmp_path: Path) -> None:
    """Masks are chosen outside the layers, by a list in the config."""
    teacher = make(tmp_path / "teacher", "gemma3")
    folder = cut(tmp_path / "teacher", [1, 2], tmp_path / "out")
    student = load(folder)
    check_same_maths(teacher, student, "model.layers", [1, 2])
    student.config.layer_types = ["sliding_attention", "full_attention"]
    with pytest.raises(ConfigError, match="got layer 1 of a Gemma3ForCausalLM as layer 0"):
        check_same_maths(teacher, student, "model.layers", [1, 2])


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    make(tmp_path / "teacher", "llama")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(ConfigError, match="holds mine, which kdcache did not write there; expected a new"):
        cut(tmp_path / "teacher", [0], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_teachers_that_cannot_be_cut(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"expected a folder with config.json"):
        cut(tmp_path / "none", [0], tmp_path / "out")
    make(tmp_path / "teacher", "llama")
    (tmp_path / "teacher" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(TeacherError, match="does not load") as caught:
        cut(tmp_path / "teacher", [0], tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_two_lists_of_layers_are_too_many(tmp_path: Path) -> None:
    from kdcache.models.cut import layer_list

    model = torch.nn.Module()
    model.first = torch.nn.ModuleList([torch.nn.Linear(1, 1) for _ in range(2)])
    model.second = torch.nn.ModuleList([torch.nn.Linear(1, 1) for _ in range(2)])
    with pytest.raises(TeacherError, match=r"2 lists of 2 layers \(first, second\)"):
        layer_list(model, 2)
