"""Heads loaded without their bodies give the logits of the whole models, and read no byte of the body."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import SMALL
from safetensors import safe_open
from torch import Tensor

from kdcache.errors import TeacherError
from kdcache.models import head_file
from kdcache.models.head import Head
from kdcache.models.taps import inputs_of
from kdcache.targets.output_layer import PostFunction

GPT2 = {"vocab_size": 330, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
OPT = {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3}
FAMILIES: dict[str, tuple[dict[str, Any], str, PostFunction]] = {
    "llama": (SMALL, "model.norm", PostFunction()),
    "gemma2": (
        {**SMALL, "head_dim": 8, "final_logit_softcapping": 5.0},
        "model.norm",
        PostFunction(soft_cap=5.0),
    ),
    "granite": ({**SMALL, "logits_scaling": 4.0}, "model.norm", PostFunction(0.25)),
    "cohere": ({**SMALL, "logit_scale": 0.25}, "model.norm", PostFunction(0.25)),
    "gpt2": (GPT2, "transformer.ln_f", PostFunction()),
    "opt": (OPT, "model.decoder.final_layer_norm", PostFunction()),
    "qwen3": ({**SMALL, "head_dim": 8}, "model.norm", PostFunction()),
    "phi": (SMALL, "model.final_layernorm", PostFunction()),
}


def saved(family: str, folder: Path, tied: bool, **settings: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**FAMILIES[family][0], "tie_word_embeddings": tied})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name or "ln_f" in name:
                parameter.normal_()
    model.save_pretrained(folder, **settings)
    return model


@torch.no_grad()
def states(model: Any, norm: str) -> tuple[Tensor, Tensor, Tensor]:
    """(before the final norm, after it, logits) of a few tokens."""
    ids = torch.arange(3, 40)[None]
    with inputs_of(model.get_submodule(norm)) as seen:
        logits_PV = model(input_ids=ids, use_cache=False).logits[0]
    return seen[0].reshape(len(logits_PV), -1), model.base_model(ids, use_cache=False).last_hidden_state[0], logits_PV


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_logits_are_those_of_the_whole_model(
    family: str, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the final norm and after it; what is read are the head's and the norm's bytes."""
    _, norm, post = FAMILIES[family]
    model = saved(family, tmp_path, tied)
    before_PD, after_PD, logits_PV = states(model, norm)
    read: list[int] = []

    class Counting:
        def __init__(self, *given: Any, **settings: Any) -> None:
            self.file = safe_open(*given, **settings)

        def __enter__(self) -> "Counting":
            return self

        def __exit__(self, *_: object) -> None:
            del self.file

        def keys(self) -> Any:
            return self.file.keys()

        def get_tensor(self, name: str) -> Tensor:
            tensor = self.file.get_tensor(name)
            read.append(tensor.nbytes)
            return tensor

    monkeypatch.setattr(head_file, "safe_open", Counting)
    head = Head.load(tmp_path)
    modules = [model.get_output_embeddings(), model.get_submodule(norm)]
    assert sum(read) == sum(p.nbytes for module in modules for p in module.parameters())
    torch.testing.assert_close(head.logits(before_PD, before_norm=True), logits_PV, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.logits(after_PD), logits_PV, rtol=1e-5, atol=1e-5)
    assert head.fuses
    assert head.post == post
    layer = head.output_layer()
    assert layer is not None
    torch.testing.assert_close(layer.logits(after_PD), logits_PV, rtol=1e-4, atol=1e-4)


def test_sharded_and_in_half_precision(tmp_path: Path) -> None:
    model = saved("gemma2", tmp_path, False, max_shard_size="40KB")
    assert len(json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]) > 3
    assert len([*tmp_path.glob("*.safetensors")]) > 2
    head = Head.load(tmp_path, torch.bfloat16)
    before_PD, _, logits_PV = states(model.bfloat16(), "model.norm")
    got_PV = head.logits(before_PD, before_norm=True)
    assert got_PV.dtype is torch.float32
    torch.testing.assert_close(got_PV, logits_PV.float(), rtol=2e-2, atol=2e-2)


def test_a_checkpoint_of_the_body_alone(tmp_path: Path) -> None:
    """As GPT-2's on the hub, whose names lack the body's prefix."""
    model = saved("gpt2", tmp_path / "whole", True)
    model.transformer.save_pretrained(tmp_path / "body")
    shutil.copy(tmp_path / "whole" / "config.json", tmp_path / "body" / "config.json")
    before_PD, _, logits_PV = states(model, "transformer.ln_f")
    got_PV = Head.load(tmp_path / "body").logits(before_PD, before_norm=True)
    torch.testing.assert_close(got_PV, logits_PV, rtol=1e-5, atol=1e-5)


def test_a_projection_after_the_norm_is_refused_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OPT-350m's: after the projection its states serve, before the norm they are refused in one line."""
    monkeypatch.setitem(FAMILIES, "opt", ({**OPT, "word_embed_proj_dim": 16}, *FAMILIES["opt"][1:]))
    model = saved("opt", tmp_path, True)
    before_PD, after_PD, logits_PV = states(model, "model.decoder.final_layer_norm")
    head = Head.load(tmp_path)
    torch.testing.assert_close(head.logits(after_PD), logits_PV, rtol=1e-5, atol=1e-5)
    with pytest.raises(TeacherError, match=r"^got states before the final norm of OPTForCausalLM, which cannot be fou"):
        head.logits(before_PD, before_norm=True)


def test_what_is_no_head(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="does not load"):
        Head.load(tmp_path)
    model = saved("llama", tmp_path, False)
    del model.lm_head
    model.save_pretrained(tmp_path)
    with pytest.raises(TeacherError, match=r"lacks lm_head.weight, expected the weights of its head"):
        Head.load(tmp_path)
