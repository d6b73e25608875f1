"""Logits in blocks are the model's own, also for heads with a soft-cap, a scale or a bias."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import FAMILIES, saved

from kdcache.dump.run import run_dump
from kdcache.dump.settings import ComputeConfig, DumpConfig, TeacherConfig
from kdcache.dump.teacher import Teacher, load_teacher
from kdcache.errors import TeacherError
from kdcache.launcher import World
from kdcache.models.inputs import flat_positions, model_inputs
from kdcache.tasks import task_of


def teacher_of(folder: Path, dtype: str = "float32", **compute: object) -> Teacher:
    config = TeacherConfig.model_validate({"path": str(folder), "dtype": dtype})
    settings = ComputeConfig(device="cpu", block_positions=7, **compute)  # type: ignore[arg-type]
    return load_teacher(config, settings, World(), num_classes=320, task=task_of({}))


def set_splits(teacher: Teacher, splits: bool) -> None:
    assert teacher.head.found is not None
    teacher.head.found = replace(teacher.head.found, splits=splits, post=teacher.head.post if splits else None)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_blocks_equal_the_plain_forward(family: str, tmp_path: Path) -> None:
    teacher = teacher_of(saved(family, tmp_path))
    assert teacher.head.splits, "the head was not replayed, so whole batches of logits would exist"
    rng = torch.Generator().manual_seed(1)
    tokens = [torch.randint(3, 320, (n,), generator=rng).numpy() for n in (40, 23, 31)]
    documents = [torch.tensor(d).numpy() for d in ([15, 25], [23], [1, 30])]
    positions = [torch.arange(0, len(t) - 1, 2).numpy() for t in tokens]
    inputs = model_inputs(tokens, documents, "document")
    flat_P = flat_positions(positions, max(map(len, tokens)))
    blocks = [logits_PV for _, logits_PV, _ in teacher.rows(inputs, flat_P)]
    assert max(map(len, blocks)) == 7
    rows = []
    for t, d, p in zip(tokens, documents, positions, strict=True):
        ends = d.cumsum()
        pieces = [teacher.model(torch.from_numpy(t[e - n : e])[None]).logits[0] for n, e in zip(d, ends, strict=True)]
        rows.append(torch.cat(pieces)[torch.from_numpy(p), :320].detach())
    torch.testing.assert_close(torch.cat(blocks), torch.cat(rows), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_transient_blocks_are_the_same_bits_in_the_memory_of_one(family: str, dtype: str, tmp_path: Path) -> None:
    teacher = teacher_of(saved(family, tmp_path), dtype=dtype)
    inputs = model_inputs([torch.arange(3, 40).numpy()], [torch.tensor([37]).numpy()], "document")
    flat_P = torch.arange(36)
    kept = [rows for _, rows, _ in teacher.rows(inputs, flat_P)]
    passing = [(rows.clone(), rows.data_ptr()) for _, rows, _ in teacher.rows(inputs, flat_P, transient=True)]
    assert len(passing) == len(kept) > 5
    assert all(torch.equal(rows, one) for rows, (one, _) in zip(kept, passing, strict=True))
    assert len({rows.data_ptr() for rows in kept}) == len(kept)
    if family not in SOFT_CAPS.keys() | SCALES.keys():
        assert len({place for _, place in passing}) == 1


SOFT_CAPS = {"gemma2": 5.0}
SCALES = {"granite": 1 / 3.0, "cohere": 0.25}


@pytest.mark.parametrize("split", [True, False], ids=["blocks", "whole"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_logits_of_a_half_precision_teacher_are_never_rounded_to_it(
    family: str, split: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against cap(scale · (W h + b)) in float64 of the same bfloat16 weights and hidden states."""
    teacher = teacher_of(saved(family, tmp_path), dtype="bfloat16")
    set_splits(teacher, split)
    assert "warning" not in capsys.readouterr().err
    ids = torch.arange(3, 40)
    inputs = model_inputs([ids.numpy()], [torch.tensor([37]).numpy()], "document")
    hidden_PD = teacher.hidden(inputs, torch.arange(36))
    head = teacher.model.get_output_embeddings()
    assert hidden_PD.dtype is head.weight.dtype is torch.bfloat16
    bias = None if head.bias is None else head.bias.double()
    exact_PV = torch.nn.functional.linear(hidden_PD.double(), head.weight.double(), bias) * SCALES.get(family, 1.0)
    if family in SOFT_CAPS:
        exact_PV = SOFT_CAPS[family] * torch.tanh(exact_PV / SOFT_CAPS[family])
    got_PV = torch.cat([logits_PV for _, logits_PV, _ in teacher.rows(inputs, torch.arange(36))])
    assert got_PV.dtype is torch.float32
    assert float((got_PV.double() - exact_PV[:, :320]).abs().max()) < 2e-6 * float(exact_PV.abs().max())


def test_a_head_that_rounds_its_logits_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = teacher_of(saved("llama", tmp_path), dtype="bfloat16").model
    model.lm_head.register_forward_hook(lambda module, given, output: output.bfloat16())
    Teacher(model, torch.device("cpu"), 320, 7)
    said = capsys.readouterr().err
    assert "warning: LlamaForCausalLM gives its logits in bfloat16, rounded before the softmax; set teacher.dty" in said


def test_whole_batches_where_the_head_cannot_be_replayed(tmp_path: Path) -> None:
    teacher = teacher_of(saved("llama", tmp_path))
    tokens, documents = [torch.arange(3, 30).numpy()], [torch.tensor([27]).numpy()]
    positions = [torch.arange(26).numpy()]
    arguments = (model_inputs(tokens, documents, "document"), flat_positions(positions, max(map(len, tokens))))
    split = torch.cat([rows for _, rows, _ in teacher.rows(*arguments)])
    set_splits(teacher, False)
    whole = torch.cat([rows for _, rows, _ in teacher.rows(*arguments)])
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_output_layer_makes_the_logits_of_the_hidden_states(family: str, tmp_path: Path) -> None:
    teacher = teacher_of(saved(family, tmp_path))
    layer = teacher.output_layer()
    tokens = [torch.arange(3, 40).numpy()]
    inputs = model_inputs(tokens, [torch.tensor([37]).numpy()], "document")
    for _, logits_PV, hidden_PD in teacher.rows(inputs, torch.arange(36)):
        assert hidden_PD is not None
        torch.testing.assert_close(layer.logits(hidden_PD)[:, :320], logits_PV, rtol=1e-3, atol=1e-3)
    assert (layer.bias_V is not None) == (family == "phi")
    assert layer.soft_cap == (5.0 if family == "gemma2" else None)
    assert layer.scale == pytest.approx({"granite": 1 / 3, "cohere": 0.25}.get(family, 1.0))


def test_what_is_no_output_layer_is_refused(tmp_path: Path) -> None:
    model = teacher_of(saved("llama", tmp_path)).model
    words = r"the logits of LlamaForCausalLM are not its output layer's of its hidden states.*use another record.kind"
    with model.register_forward_hook(lambda _, __, out: out | {"logits": out.logits.sinh()}):
        teacher = Teacher(model, torch.device("cpu"), 320, 7)
    with pytest.raises(TeacherError, match=words):
        teacher.output_layer()
    teacher = Teacher(model, torch.device("cpu"), 320, 7)
    teacher.output_layer()
    set_splits(teacher, False)
    with pytest.raises(TeacherError, match=words):
        teacher.output_layer()


def test_a_scale_that_the_config_names_and_the_model_does_not_apply(tmp_path: Path) -> None:
    teacher = teacher_of(saved("llama", tmp_path))
    teacher.model.config.logit_scale = 0.5
    assert Teacher(teacher.model, torch.device("cpu"), 320, 7).output_layer().scale == 1.0


def test_device_map_on_a_machine_without_gpus_is_the_cpu(tmp_path: Path) -> None:
    config = TeacherConfig(
        path=str(saved("llama", tmp_path)), dtype="float32", placement="device_map", gpus_per_replica=2
    )
    teacher = load_teacher(
        config, ComputeConfig(device="cpu"), World(), num_classes=320, task=task_of({"attention": "causal"})
    )
    assert teacher.device.type == "cpu"


def test_a_folder_that_is_no_language_model(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path)
    (folder / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(TeacherError, match="does not load"):
        teacher_of(folder)


def half(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_another_model(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 80}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (half, r"model\.safetensors is no whole safetensors file \(.*\); copy it again"),
        (of_another_model, r"its weight .*down_proj\.weight is of shape \[32, 64\], expected \[32, 80\]"),
    ],
)
def test_damaged_weights_are_one_line(
    make_config: Callable[..., DumpConfig], teacher_folder: Path, tmp_path: Path, damage: Callable, words: str
) -> None:
    shutil.copytree(teacher_folder, tmp_path / "damaged")
    damage(tmp_path / "damaged")
    with pytest.raises(TeacherError, match=words) as caught:
        run_dump(make_config(tmp_path / "cache", teacher={"path": str(tmp_path / "damaged")}), World())
    assert "\n" not in str(caught.value)


def test_threads_beyond_reason_are_refused(make_config: Callable[..., DumpConfig], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"less than or equal to 1024"):
        make_config(tmp_path / "cache", compute={"threads": 10_000})


def test_features_of_a_teacher_whose_head_cannot_be_run_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its logits also depend on something besides what its body hands over: the ids of the tokens."""
    from transformers import LlamaForCausalLM

    folder, forward = saved("llama", tmp_path), LlamaForCausalLM.forward

    def with_ids(self: LlamaForCausalLM, input_ids: torch.Tensor, **given: object) -> object:
        out = forward(self, input_ids=input_ids, **given)
        out.logits = out.logits + input_ids[..., None]
        return out

    monkeypatch.setattr(LlamaForCausalLM, "forward", with_ids)
    config, compute = TeacherConfig(path=str(folder), dtype="float32"), ComputeConfig(device="cpu")
    given = {"num_classes": 320, "task": task_of({})}
    assert not load_teacher(config, compute, World(), **given).gives_hidden_states
    with pytest.raises(TeacherError, match=r"got a record of features and a teacher, LlamaForCausalLM, whose head"):
        load_teacher(config, compute, World(), **given, features=True)


def test_a_body_that_gives_more_than_hidden_states(tmp_path: Path) -> None:
    """Mamba's gives a state too, which its head passes on."""
    from transformers import MambaConfig, MambaForCausalLM

    settings = {"vocab_size": 330, "hidden_size": 32, "num_hidden_layers": 1, "state_size": 8}
    MambaForCausalLM(MambaConfig(**settings)).save_pretrained(tmp_path)
    teacher = teacher_of(tmp_path)
    assert teacher.gives_hidden_states
    inputs = model_inputs([torch.arange(3, 40).numpy()], [torch.tensor([37]).numpy()], "causal")
    got_PV = torch.cat([logits_PV for _, logits_PV, _ in teacher.rows(inputs, torch.arange(36))])
    whole_PV = teacher.model(torch.arange(3, 40)[None]).logits[0, :36, :320].detach()
    torch.testing.assert_close(got_PV, whole_PV, rtol=1e-4, atol=1e-4)
