"""What float32 logits of half-precision weights cost and are worth, beside logits rounded to bfloat16.

SmolLM2-135M in bfloat16 on windows of 512 tokens, both products in one process in a new order each window, CPU seconds
a window. Measured on 2026-11-25:

    body 4.41   rounded product .30   float32 product .50   compression .08     a dump takes 1.04 times as long
    KL of the teacher's stored row to its own weights' row      4.8e-4 nats -> 1e-11
    gradient error of forward KL and JSD near the teacher       23% -> .2%

P positions, V classes.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from kdcache.losses import fused
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.targets.compress import compress
from kdcache.targets.dense import Dense
from kdcache.targets.product import wide_product
from kdcache.targets.sampled import Sampled
from tests.bench.part import Part, Rows
from tests.bench.scene import teacher_folder, use_threads
from tests.bench.tables import figure, table
from tests.real_rows import token_windows


def rounded(left_PD: Tensor, right_VD: Tensor, out: Tensor | None = None) -> Tensor:
    product_PV = (left_PD @ right_VD.T).float()
    return product_PV if out is None else out.copy_(product_PV)


def seconds(work: Callable[[], Tensor], into: list[float]) -> Tensor:
    start = time.process_time()
    result = work()
    into.append(time.process_time() - start)
    return result


@torch.inference_mode()
def cost(model: torch.nn.Module, windows: Tensor) -> tuple[Rows, Tensor]:
    """The parts of a dump, and the last window's hidden states."""
    weight_VD = model.lm_head.weight
    nats: dict[str, list[float]] = {"rounded": [], "float32": []}
    took: dict[str, list[float]] = {"body": [], "rounded": [], "float32": [], "compression": []}
    for number, tokens in enumerate(windows):
        hidden_PD = seconds(
            lambda ids=tokens: model.model(ids[None], use_cache=False).last_hidden_state[0, :-1].contiguous(),
            took["body"],
        )
        sides = [("rounded", rounded), ("float32", wide_product)]
        rows = {
            name: seconds(lambda make=make, given=hidden_PD: make(given, weight_VD), took[name])
            for name, make in sides[:: 1 if number % 2 else -1]
        }
        start = time.process_time()
        compress(rows["float32"], Sampled())
        took["compression"].append(time.process_time() - start)
        exact_PV = (hidden_PD[:128].double() @ weight_VD.double().T).log_softmax(-1)
        for name, logits_PV in rows.items():
            kl_P = (exact_PV.exp() * (exact_PV - logits_PV[:128].double().log_softmax(-1))).sum(-1)
            nats[name].append(float(kl_P.mean()))
    medians = {name: statistics.median(values[1:]) for name, values in took.items()}
    shared = medians["body"] + medians["compression"]
    ratio = (shared + medians["float32"]) / (shared + medians["rounded"])
    return {"cpu": medians, "dump": ratio, "nats": {k: statistics.mean(v) for k, v in nats.items()}}, hidden_PD


def worth(hidden_PD: Tensor, weight_VD: Tensor) -> Rows:
    """Gradient errors of a student whose hidden states are 2% from the teacher's."""
    noise_PD = torch.randn(hidden_PD.shape, generator=torch.Generator().manual_seed(0))
    near_PD = (hidden_PD.float() * (1 + 0.02 * noise_PD)).bfloat16()
    spec = Dense(logit_dtype="float32")
    targets = compress((hidden_PD.double() @ weight_VD.double().T).float(), spec)
    supervision = Supervision(torch.zeros(len(hidden_PD), dtype=torch.int64), targets)
    found: Rows = {}
    for kind in ("forward_kl", "jsd"):
        terms = LossTerms([make_term(name="divergence", kind=kind)], len(weight_VD))

        def gradient(given_PD: Tensor, weight: Tensor, terms: LossTerms = terms) -> Tensor:
            given_PD = given_PD.clone().requires_grad_()
            loss, _ = fused.FusedLoss(terms, supervision, chunk=96)(given_PD, weight)
            return torch.autograd.grad(loss, given_PD)[0].double()

        exact = gradient(near_PD.double(), weight_VD.double())
        for name, product in (("rounded", rounded), ("float32", wide_product)):
            fused.wide_product = product
            error = (gradient(near_PD, weight_VD) - exact).norm() / exact.norm()
            found[f"{kind}, {name}"] = float(error)
    fused.wide_product = wide_product
    return found


def run(quick: bool) -> Rows:
    from transformers import AutoModelForCausalLM

    folder = teacher_folder()
    use_threads()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval().requires_grad_(False)
    rows, hidden_PD = cost(model, token_windows(folder, 2 if quick else 4, 128 if quick else 512))
    return rows | {"errors": worth(hidden_PD[:96].clone(), model.lm_head.weight)}


def render(rows: Rows) -> str:
    kinds = {"forward_kl": "forward KL", "jsd": "JSD"}
    lines = [
        [name, figure(rows["cpu"][name]), figure(rows["nats"][name]),
         *(f"{rows['errors'][f'{kind}, {name}']:.2%}" for kind in kinds)]
        for name in ("rounded", "float32")
    ]  # fmt: skip
    return (
        "The product of a bfloat16 teacher's output layer, rounded to bfloat16 as the model does it, or in float32 as "
        f"kdcache does. A dump takes {rows['dump']:.2f} times as long with the latter. Nats are from the exact row to "
        "the one that is made; errors are of the gradient of a student near its teacher.\n\n"
        + table(["product", "CPU s", "nats", *(f"error, {kind}" for kind in kinds.values())], lines)
    )


PART = Part(name="head_product", title="Logits of a half-precision teacher", minutes=2, run=run, render=render)
