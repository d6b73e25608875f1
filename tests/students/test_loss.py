"""StudentWithLoss against autograd over whole logits, fused and unfused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from train.tiny import student_config, train_config, write_cache

from kdcache.launcher import World
from kdcache.losses.distillation import distillation_loss
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.models.head import Head
from kdcache.models.wide_linear import WideLinear
from kdcache.store.cache import Cache, open_cache
from kdcache.students.collate import Collator, Inputs
from kdcache.students.loss import StudentWithLoss, with_loss
from kdcache.students.making import make_student
from kdcache.students.settings import StudentConfig
from kdcache.targets.output_layer import PostFunction
from kdcache.train.export import full_weights

GEMMA2 = {"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 30.0, "tie_word_embeddings": True}
GRANITE = {"model_type": "granite", "logits_scaling": 2.0}
GEMMA3 = {"model_type": "gemma3_text", "head_dim": 8, "final_logit_softcapping": 20.0, "tie_word_embeddings": True}
COHERE2 = {"model_type": "cohere2", "logit_scale": 0.125, "tie_word_embeddings": True}
COHERE = {"model_type": "cohere", "logit_scale": 0.0625, "tie_word_embeddings": True}
UNKNOWN = {"model_type": "llama", "architectures": ["Unknown"]}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 300}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return open_cache(write_cache(tmp_path_factory.mktemp("model") / "cache", examples=8))


def student_of(cache: Cache, settings: dict[str, Any]) -> Any:
    student = make_student(StudentConfig(config=settings), cache, 0).eval()
    if settings.get("architectures") == ["Unknown"]:
        student.lm_head.register_forward_hook(lambda _, __, logits: logits.sinh())
    return student


@pytest.mark.parametrize(
    ("settings", "fused"),
    [
        (student_config(), True),
        (student_config(vocab_size=310, tie_word_embeddings=False), True),
        (GPT2, True),
        (student_config(**GEMMA2), True),
        (student_config(**GRANITE), True),
        (student_config(**COHERE), True),
        (student_config(**GEMMA3), True),
        (student_config(**COHERE2), True),
        (student_config(**UNKNOWN), False),
    ],
    ids=[
        "tied",
        "wide",
        "gpt2",
        "soft-cap",
        "scale",
        "small scale",
        "gemma3",
        "cohere2",
        "unknown",
    ],
)
def test_loss_and_gradients_are_those_of_whole_logits(
    cache: Cache, settings: dict[str, Any], fused: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    terms = LossTerms(train_config(Path("c"), Path("o")).terms, 300)
    plain = student_of(cache, settings)
    inputs = Collator(plain, cache)(cache.read(0, 5))
    supervision = inputs.supervision
    assert supervision.targets is not None
    arguments = inputs.model.arguments
    logits_PV = plain(**arguments, use_cache=False).logits.flatten(0, 1)[inputs.flat_P]
    kl = distillation_loss(logits_PV, supervision.targets, reduction="sum")
    nll = torch.nn.functional.cross_entropy(logits_PV, supervision.labels_P, reduction="sum")
    (0.7 * kl + 0.3 * nll).backward()

    model = with_loss(student_of(cache, settings), chunk=7)
    assert model.head.fuses is fused
    assert ("is more than a linear layer" in capsys.readouterr().err) is not fused
    loss, sums_K = model(inputs, terms)
    loss.backward()
    torch.testing.assert_close(sums_K.tolist(), [float(kl.detach()), float(nll.detach())], rtol=1e-5, atol=1e-5)
    for name, parameter in plain.named_parameters():
        found = model.student.get_parameter(name).grad
        torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-4 * float(parameter.grad.abs().max()))


@pytest.mark.parametrize("settings", [student_config(vocab_size=400), student_config(vocab_size=400, **GEMMA2)])
def test_a_wider_student_learns_that_the_upper_classes_never_occur(cache: Cache, settings: dict[str, Any]) -> None:
    """A fifth of its mass at first; left alone it would stay about there."""
    model = with_loss(student_of(cache, settings), chunk=64)
    inputs = Collator(model.student, cache)(cache.read(0, 8))
    terms = LossTerms([make_term(name="divergence", kind="jsd", temperature=2.0)], 300)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    masses = []
    for _ in range(40):
        with torch.no_grad():
            logits_PV = model.student(**inputs.model.arguments).logits.flatten(0, 1)[inputs.flat_P]
        masses.append(logits_PV.softmax(-1)[:, 300:].sum(-1).mean().item())
        optimizer.zero_grad()
        (model(inputs, terms)[0] / len(logits_PV)).backward()
        optimizer.step()
    assert masses[0] > 0.15
    assert masses[-1] < 0.01


def test_a_soft_cap_shows_even_where_fresh_weights_give_logits_near_zero(cache: Cache) -> None:
    tiny = student_of(cache, student_config(**GEMMA2, initializer_range=1e-3))
    assert tiny(input_ids=torch.arange(8)[None]).logits.abs().max() < 0.1
    assert Head.of(tiny).post == PostFunction(soft_cap=30.0)
    tiny.config.final_logit_softcapping = None
    assert Head.of(tiny).post == PostFunction()
    with tiny.register_forward_hook(lambda _, __, out: out | {"logits": 30 * torch.tanh(out.logits / 30)}):
        assert not Head.of(tiny).fuses


def test_the_swapped_head_gives_logits_as_ever(cache: Cache) -> None:
    student = student_of(cache, student_config())
    ids = torch.arange(10)[None]
    before = student(input_ids=ids).logits
    with_loss(student)
    assert type(student.lm_head) is WideLinear
    assert student.lm_head.weight is student.model.embed_tokens.weight
    assert torch.equal(student(input_ids=ids).logits, before)


@pytest.mark.parametrize("settings", [student_config(), student_config(**UNKNOWN)], ids=["fused", "unfused"])
def test_a_batch_with_nothing_supervised_has_loss_and_gradient_zero(cache: Cache, settings: dict[str, Any]) -> None:
    model = with_loss(student_of(cache, settings))
    inputs = Collator(model.student, cache)(cache.read(0, 2)).without_positions()
    loss, sums_K = model(inputs, LossTerms((), 300))
    assert float(loss.detach()) == 0
    assert sums_K.sum() == 0
    loss.backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in model.parameters())


BOTTLENECKS = [
    make_term(name="bottleneck", width=3, weight=0.5),
    make_term(name="divergence", weight=0.7),
    make_term(name="bottleneck", width=5, beta=0.2),
]


def with_bottlenecks(cache: Cache, settings: dict[str, Any]) -> tuple[StudentWithLoss, Inputs]:
    student = student_of(cache, settings)
    inputs = Collator(student, cache)(cache.read(0, 5))
    features_PH = torch.randn(inputs.supervision.num_positions, 6, generator=torch.Generator().manual_seed(5))
    inputs = replace(inputs, supervision=replace(inputs.supervision, features_PH=features_PH))
    torch.manual_seed(7)
    width = student.get_output_embeddings().in_features
    made = {k: BOTTLENECKS[k].make_module(width, 6) for k in (0, 2)}
    return with_loss(student, chunk=7, modules=made), inputs


@pytest.mark.parametrize("settings", [student_config(), student_config(**UNKNOWN)], ids=["fused", "unfused"])
def test_bottlenecks_are_fed_with_what_the_head_is_fed_with(cache: Cache, settings: dict[str, Any]) -> None:
    """Loss, sums in the order of the terms, and all gradients; one draw a position."""
    model, inputs = with_bottlenecks(cache, settings)
    model.train()
    torch.manual_seed(3)
    loss, sums_K = model(inputs, LossTerms(BOTTLENECKS, 300))
    loss.backward()
    got = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()

    supervision = inputs.supervision
    assert supervision.targets is not None
    assert supervision.features_PH is not None
    arguments = inputs.model.arguments
    out = model.student(**arguments, use_cache=False, output_hidden_states=True)
    hidden_PD, logits_PV = (whole.flatten(0, 1)[inputs.flat_P] for whole in (out.hidden_states[-1], out.logits))
    torch.manual_seed(3)
    first = model.beside[0](hidden_PD, supervision.features_PH).sum()
    kl = distillation_loss(logits_PV[:, :300], supervision.targets, reduction="sum")
    last = model.beside[1](hidden_PD, supervision.features_PH).sum()
    plain = 0.5 * first + 0.7 * kl + last
    plain.backward()
    torch.testing.assert_close(sums_K, torch.stack([first, kl, last]).detach().double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-4, atol=1e-4 * float(parameter.grad.abs().max()))


@pytest.mark.parametrize("settings", [student_config(), student_config(**UNKNOWN)], ids=["fused", "unfused"])
def test_a_bottlenecks_gradient_is_the_sum_over_positions(cache: Cache, settings: dict[str, Any]) -> None:
    """Of parts of a batch it adds up to that of the whole; drawing apart, so without draws."""
    model, inputs = with_bottlenecks(cache, settings)
    model.eval()
    terms = LossTerms(BOTTLENECKS, 300)
    model(inputs, terms)[0].backward()
    whole = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for part in (slice(0, 4), slice(4, None)):
        model(replace(inputs, flat_P=inputs.flat_P[part], supervision=inputs.supervision[part]), terms)[0].backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-4 * float(whole[name].abs().max()))
    model.zero_grad()
    loss, sums_K = model(inputs.without_positions(), terms)
    loss.backward()
    assert sums_K.tolist() == [0, 0, 0]
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in model.parameters())


def test_an_evaluation_and_the_written_student_know_no_bottleneck(cache: Cache) -> None:
    model, inputs = with_bottlenecks(cache, student_config())
    plain = with_loss(student_of(cache, student_config()), chunk=7)
    assert torch.equal(model(inputs), plain(inputs))

    class Engine:
        module = model

        def zero_optimization_stage(self) -> int:
            return 0

    weights = full_weights(Engine(), World(), "student.")
    assert weights.keys() == dict(plain.student.named_parameters()).keys()
    of_bottlenecks = full_weights(Engine(), World(), "beside.")
    assert of_bottlenecks.keys() == dict(model.beside.named_parameters()).keys()
    model.beside.load_state_dict(of_bottlenecks)
