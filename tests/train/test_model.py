"""StudentWithLoss against autograd over whole logits, fused and unfused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from train.tiny import student_config, train_config, write_cache

from kdcache.config import StudentConfig
from kdcache.losses.divergence import distillation_loss
from kdcache.losses.fused import FusedHead
from kdcache.losses.terms import LossTerms
from kdcache.store.cache import Cache, open_cache
from kdcache.train.collate import Collator
from kdcache.train.model import fits_fused_head, with_loss
from kdcache.train.student import make_student

GEMMA2 = {"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 30.0, "tie_word_embeddings": True}
GRANITE = {"model_type": "granite", "logits_scaling": 2.0}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 300}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return open_cache(write_cache(tmp_path_factory.mktemp("model") / "cache", examples=8))


def student_of(cache: Cache, settings: dict[str, Any]) -> Any:
    return make_student(StudentConfig(config=settings), cache, 0).eval()


@pytest.mark.parametrize(
    ("settings", "fused"),
    [
        (student_config(), True),
        (student_config(vocab_size=310, tie_word_embeddings=False), True),
        (GPT2, True),
        (student_config(**GEMMA2), False),
        (student_config(**GRANITE), False),
    ],
    ids=["tied", "wide", "gpt2", "soft-cap", "scale"],
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
    logits_PV = plain(**arguments, use_cache=False).logits.flatten(0, 1)[inputs.flat_P][:, :300]
    kl = distillation_loss(logits_PV, supervision.targets, reduction="sum")
    nll = torch.nn.functional.cross_entropy(logits_PV, supervision.labels_P, reduction="sum")
    (0.7 * kl + 0.3 * nll).backward()

    model = with_loss(student_of(cache, settings), 300, chunk=7)
    assert model.fused is fused
    assert ("is more than a linear layer" in capsys.readouterr().err) is not fused
    loss, sums_K = model(inputs, terms)
    loss.backward()
    torch.testing.assert_close(sums_K.tolist(), [float(kl.detach()), float(nll.detach())], rtol=1e-5, atol=1e-5)
    for name, parameter in plain.named_parameters():
        found = model.student.get_parameter(name).grad
        torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-4 * float(parameter.grad.abs().max()))


def test_a_soft_cap_shows_even_where_fresh_weights_give_logits_near_zero(cache: Cache) -> None:
    tiny = student_of(cache, student_config(**GEMMA2, initializer_range=1e-3))
    assert tiny(input_ids=torch.arange(8)[None]).logits.abs().max() < 0.1
    assert not fits_fused_head(tiny)
    tiny.config.final_logit_softcapping = None
    assert fits_fused_head(tiny)


def test_the_swapped_head_gives_logits_as_ever(cache: Cache) -> None:
    student = student_of(cache, student_config())
    ids = torch.arange(10)[None]
    before = student(input_ids=ids).logits
    with_loss(student, 300)
    assert type(student.lm_head) is FusedHead
    assert student.lm_head.weight is student.model.embed_tokens.weight
    assert torch.equal(student(input_ids=ids).logits, before)


@pytest.mark.parametrize("settings", [student_config(), student_config(**GEMMA2)], ids=["fused", "unfused"])
def test_a_batch_with_nothing_supervised_has_loss_and_gradient_zero(cache: Cache, settings: dict[str, Any]) -> None:
    model = with_loss(student_of(cache, settings), 300)
    inputs = Collator(model.student, cache)(cache.read(0, 2)).without_positions()
    loss, sums_K = model(inputs, LossTerms((), 300))
    assert float(loss.detach()) == 0
    assert sums_K.sum() == 0
    loss.backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in model.parameters())
