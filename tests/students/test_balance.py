"""The balancing loss of students that are mixtures of experts: transformers' own, beside the loss, fused or not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from train.tiny import student_config, train_config, write_cache

from kdcache.losses.terms import LossTerms
from kdcache.store.cache import Cache, open_cache
from kdcache.students.balance import terms_of_student, warn_unbalanced
from kdcache.students.collate import Collator
from kdcache.students.loss import with_loss
from kdcache.students.making import make_student
from kdcache.students.settings import StudentConfig

ON = {"output_router_logits": True, "router_aux_loss_coef": 0.5}
EXPERTS = {"num_experts_per_tok": 2, "tie_word_embeddings": False}
MIXTRAL = student_config(model_type="mixtral", num_local_experts=4, **EXPERTS)
QWEN = student_config(model_type="qwen3_moe", num_experts=4, moe_intermediate_size=16, head_dim=8, **EXPERTS)
GRANITE = student_config(model_type="granitemoe", num_local_experts=4, num_experts_per_tok=2, logits_scaling=2.0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return open_cache(write_cache(tmp_path_factory.mktemp("balance") / "cache", examples=8))


def student_of(cache: Cache, settings: dict[str, Any], checkpointing: bool = False) -> Any:
    return make_student(StudentConfig(config=settings, gradient_checkpointing=checkpointing), cache, 0)


def terms_of(student: Any) -> LossTerms:
    return LossTerms((*train_config(Path("c"), Path("o")).terms, *terms_of_student(student)), 300)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("settings", "fused"), [(MIXTRAL, True), (QWEN, True), (GRANITE, True)])
def test_it_is_transformers_own_times_the_positions(
    cache: Cache, settings: dict[str, Any], fused: bool, checkpointing: bool
) -> None:
    """One example, so without padding: beside what the same student gives without it."""
    student = student_of(cache, settings | ON, checkpointing)
    model, off = with_loss(student, chunk=7), LossTerms(train_config(Path("c"), Path("o")).terms, 300)
    assert model.head.fuses is fused
    inputs = Collator(student, cache)(cache.read(0, 1))
    positions = len(inputs.flat_P)
    terms = terms_of(student)
    assert terms.names[-1] == "balance"
    loss, sums_K = model(inputs, terms)
    loss.backward()
    got = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    model.zero_grad()
    plain, _ = model(inputs, off)
    own = student(**inputs.model.arguments, use_cache=False, output_router_logits=True).aux_loss
    assert own > 0
    torch.testing.assert_close(sums_K[-1].item(), positions * own.item(), rtol=1e-5, atol=0)
    expected = plain + 0.5 * positions * own
    torch.testing.assert_close(loss, expected)
    expected.backward()
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, student.get_parameter(name).grad, rtol=1e-4, atol=1e-5)
    assert any("gate" in name or "router" in name for name in got)


def test_padding_is_of_no_expert(cache: Cache) -> None:
    student = student_of(cache, MIXTRAL | ON)
    model, collate = with_loss(student), Collator(student, cache)
    assert not collate(cache.read(0, 8)).real_BL.all()
    found = []
    for pad in (0, 9):
        collate.pad = pad
        found.append(model(collate(cache.read(0, 8)), terms_of(student))[1][-1].item())
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_nothing_supervised_counts_nothing(cache: Cache) -> None:
    student = student_of(cache, MIXTRAL | ON)
    loss, sums_K = with_loss(student)(Collator(student, cache)(cache.read(0, 2)).without_positions(), terms_of(student))
    assert float(loss.detach()) == 0 == sums_K.sum()


SAID = [
    (MIXTRAL | ON, None),
    (MIXTRAL, "set output_router_logits to true and router_aux_loss_coef above 0 in its config (now False and 0.001)"),
    (MIXTRAL | ON | {"router_aux_loss_coef": 0.0}, "(now True and 0.0)"),
    (student_config(), None),
    (
        student_config(
            model_type="deepseek_v3",
            num_key_value_heads=4,
            n_routed_experts=4,
            n_group=1,
            topk_group=1,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            kv_lora_rank=8,
            q_lora_rank=8,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=8,
        ),
        "transformers has no balancing loss for it",
    ),
]


@pytest.mark.parametrize(("settings", "said"), SAID)
def test_a_mixture_without_it_is_told(
    cache: Cache, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], said: str | None
) -> None:
    student = student_of(cache, settings)
    warn_unbalanced(student)
    told = capsys.readouterr().err
    assert bool(terms_of_student(student)) == (settings is SAID[0][0])
    if said is None:
        assert not told
    else:
        assert said in told
        assert told.count("\n") == 1
