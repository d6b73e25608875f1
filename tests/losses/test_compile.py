"""torch.compile of a student: the same loss and gradient, with one break of the graph at the loss."""

from typing import Any

import pytest
import torch

import kdcache
from kdcache.losses.fused import FusedLoss
from kdcache.losses.supervision import Supervision
from kdcache.losses.unfused import loss_of_logits

pytestmark = pytest.mark.filterwarnings("default")  # what torch warns of while it traces
P, D, V, CHUNK = 24, 8, 160, 16
KINDS: list[dict[str, Any]] = [
    {"name": "divergence"},
    {"name": "divergence", "kind": "reverse_kl"},
    {"name": "divergence", "kind": "jsd"},
    {"name": "divergence", "temperature": 2.0},
    {"name": "cross_entropy"},
]


@pytest.fixture(scope="module")
def supervision() -> Supervision:
    generator = torch.Generator().manual_seed(0)
    logits_PV = torch.randn(P, V, generator=generator) * 4
    return Supervision(torch.randint(0, V, (P,), generator=generator), kdcache.compress(logits_PV, {"kind": "sampled"}))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("settings", [[KINDS[0]], [KINDS[1]], [KINDS[2]], [KINDS[3], KINDS[4]]], ids=str)
def test_a_compiled_loss_is_the_same_behind_one_break(
    settings: list[dict[str, Any]], fused: bool, supervision: Supervision
) -> None:
    terms = kdcache.LossTerms([kdcache.make_term(**one) for one in settings], V)
    generator = torch.Generator().manual_seed(1)
    hidden_PD, weight_VD = torch.randn(P, D, generator=generator), torch.randn(V, D, generator=generator)

    def loss(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        states = (2 * hidden).tanh()
        if fused:
            return FusedLoss(terms, supervision, CHUNK)(states, weight)[0] / P
        return loss_of_logits(states @ weight.T, terms, supervision, CHUNK)[0] / P

    torch._dynamo.reset()
    seen: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        seen.append(graph)
        return graph

    found = []
    for work in (loss, torch.compile(loss, backend=backend)):
        hidden, weight = hidden_PD.clone().requires_grad_(), weight_VD.clone().requires_grad_()
        value = work(hidden, weight)
        value.backward()
        found.append((value.detach(), hidden.grad, weight.grad))
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)
    assert len(seen) == 2  # before the loss, and after it
