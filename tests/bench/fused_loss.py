"""Time and memory of the fused LM head and loss by terms, against cross-entropy alone and against plain torch.

    python tests/bench/fused_loss.py [--threads 1] [--positions 1024] [--classes 49152] [--hidden 576] [--layers 30]
                                       [--rounds 6]
    python tests/bench/fused_loss.py --memory

Forward and backward of head and loss, and of a body of --layers before them, float32, in one process, in a new order
each round; the median of the rounds in CPU seconds (so that a busy machine counts less), and its ratio to fused
cross-entropy's. Records of 32 entries. Intel Xeon, 1 thread, torch 2.13.0+cpu, 2026-11-24, 100 s; two runs, the ratios
of each (cross-entropy against itself varied by up to 2%):

    fused cross-entropy                    1.65 s   1.00  1.00
    plain torch cross-entropy              1.91 s   1.15  1.16
    fused KL at T = 1                      1.64 s    .99  1.00
    fused KL at T = 2                      1.65 s   1.00  1.00
    fused JSD at T = 1                     1.67 s    .99  1.02
    fused KL at T = 1 + cross-entropy      1.67 s   1.01  1.02
    fused KL at T = 2 + cross-entropy      1.71 s   1.02  1.04   two temperatures, two softmaxes

The loss alone, without its matrix products: .09 s for cross-entropy, .10 for a divergence, .15 for two temperatures.
Later, 512 positions on a busy machine, ratios to cross-entropy's of the loss alone and of the whole step:

    fused KL at T = 2 + cross-entropy      2.0   1.01
    fused KL at T = 1, entropy weights     2.3   1.02
    fused KL at T = 1 + entropy            3.5   1.04

Whole training steps of SmolLM2-135M's shape (--layers 30 --positions 512 --rounds 4, beside two other jobs; fused
cross-entropy 8.5 s and, against itself, .96):

    plain torch cross-entropy                       1.02
    fused KL at T = 1                               1.01
    fused KL at T = 2, factored, rank 64            1.01
    fused KL at T = 2 + cross-entropy                .96
    fused KL at T = 2 + cross-entropy, rank 64      1.05

A dense record of this many classes takes another .8 s, over half of it for the teacher's own log-probabilities.

In bfloat16 this CPU's matrix products take 4 times as long, fused or not.

--memory: how far a step of 4,096 positions raises resident memory above model, hidden states and records, each in its
own process, its gradients included (123 MB):

    fused KL + cross-entropy, chunk 1024    309 MB   1/15
    the same, chunk 512                     212 MB   1/22
    plain torch cross-entropy alone        2374 MB   1/2
    plain KL + cross-entropy               4649 MB
"""

import argparse
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from kdcache.losses.distillation import distillation_loss
from kdcache.losses.fused import FusedLoss
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import Term, make_term
from kdcache.losses.terms import LossTerms
from kdcache.models.wide_linear import WideLinear
from kdcache.targets.calibration import Encoder, make_basis
from kdcache.targets.compress import compress
from kdcache.targets.factored import Factored
from kdcache.targets.output_layer import OutputLayer
from kdcache.targets.sampled import Sampled

LABELS = make_term(name="cross_entropy")
KL1 = make_term(name="divergence")
KL2 = make_term(name="divergence", temperature=2.0)
JSD = make_term(name="divergence", kind="jsd")
WEIGHTED = make_term(name="divergence", weighting="entropy")
ENTROPY = make_term(name="entropy")


class Scene:
    """A head, hidden states, labels and records of 32 entries; the records of 64 rows over and over."""

    def __init__(self, P: int, V: int, D: int, layers: int = 0) -> None:
        self.V, self.body = V, body(V, D, layers) if layers else None
        self.tokens_BL = torch.randint(0, V, (P // 256, 256))
        self.hidden_PD = torch.randn(P, D, requires_grad=True)
        self.head = nn.Linear(D, V, bias=False)
        self.head.__class__ = WideLinear
        self.labels_P = torch.randint(0, V, (P,))
        rows = torch.arange(P) % 64
        self.targets = compress(torch.randn(64, V) * 3, Sampled(exact_top_k=32))[rows]
        layer, hidden_ND = OutputLayer(torch.randn(V, D)), torch.randn(256, D)
        basis = make_basis(layer, hidden_ND, 64)
        record = Factored(rank=64)
        logits_PV = layer.logits(hidden_ND[:64])
        self.factored = compress(logits_PV, record, hidden_PD=hidden_ND[:64], encoder=Encoder(basis, layer))[rows]

    def states(self) -> Tensor:
        """Of the body, where there is one; else hidden states that were there already."""
        if self.body is None:
            return self.hidden_PD
        return self.body(input_ids=self.tokens_BL, use_cache=False).last_hidden_state.flatten(0, 1)

    def fused(self, *terms: Term, chunk: int = 1024, factored: bool = False) -> Callable[[], None]:
        targets = self.factored if factored else self.targets
        task = FusedLoss(LossTerms(terms, self.V), Supervision(self.labels_P, targets), chunk)
        return lambda: self.head(self.states(), task=task)[0].backward()

    def plain(self) -> None:
        nn.functional.cross_entropy(self.head(self.states()), self.labels_P, reduction="sum").backward()

    def plain_with_teacher(self) -> None:
        logits_PV = self.head(self.hidden_PD)
        loss = nn.functional.cross_entropy(logits_PV, self.labels_P, reduction="sum")
        (loss + distillation_loss(logits_PV, self.targets, reduction="sum")).backward()


def body(V: int, D: int, layers: int) -> nn.Module:
    """SmolLM2's layers without its head."""
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=D * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=D // 64,
        num_key_value_heads=D // 192,
    )
    return LlamaModel(config)


def main() -> None:
    parser = argparse.ArgumentParser()
    defaults = {"threads": 1, "positions": 1024, "classes": 49152, "hidden": 576, "layers": 0, "rounds": 6}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak(Scene(4096, options.classes, options.hidden), options.peak))
    elif options.memory:
        memory()
    else:
        times(Scene(options.positions, options.classes, options.hidden, options.layers), options.rounds)


def times(scene: Scene, rounds: int) -> None:
    runs = {
        "fused cross-entropy": scene.fused(LABELS),
        "fused cross-entropy, again": scene.fused(LABELS),
        "plain torch cross-entropy": scene.plain,
        "fused KL at T = 1": scene.fused(KL1),
        "fused KL at T = 2": scene.fused(KL2),
        "fused JSD at T = 1": scene.fused(JSD),
        "fused KL at T = 2, factored, rank 64": scene.fused(KL2, factored=True),
        "fused KL at T = 1 + cross-entropy": scene.fused(KL1, LABELS),
        "fused KL at T = 2 + cross-entropy": scene.fused(KL2, LABELS),
        "the same, factored, rank 64": scene.fused(KL2, LABELS, factored=True),
        "fused KL at T = 1, entropy weights": scene.fused(WEIGHTED),
        "fused KL at T = 1 + entropy": scene.fused(KL1, ENTROPY),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for _ in range(rounds + 1):  # the first is a warm-up
        for name in random.sample(order, len(order)):
            scene.hidden_PD.grad = scene.head.weight.grad = None
            if scene.body is not None:
                scene.body.zero_grad()
            started = time.process_time()
            runs[name]()
            seconds[name].append(time.process_time() - started)
    medians = {name: statistics.median(of_rounds[1:]) for name, of_rounds in seconds.items()}
    base = statistics.median(seconds["fused cross-entropy"][1:] + seconds["fused cross-entropy, again"][1:])
    for name, median in medians.items():
        print(f"{name:36} {median:7.3f} s  {median / base:5.2f}")


def memory() -> None:
    megabytes = {}
    for run in PEAKS:
        command = [sys.executable, __file__, *sys.argv[1:], "--peak", run]
        megabytes[run] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for run, value in megabytes.items():
        print(f"{run:36} {value:7.0f} MB  1/{max(megabytes.values()) / value:.1f}")


PEAKS: dict[str, Callable[[Scene], Callable[[], None]]] = {
    "fused KL + cross-entropy": lambda scene: scene.fused(KL1, LABELS),
    "the same, chunk 512": lambda scene: scene.fused(KL1, LABELS, chunk=512),
    "plain torch cross-entropy": lambda scene: scene.plain,
    "plain KL + cross-entropy": lambda scene: scene.plain_with_teacher,
}


def peak(scene: Scene, run: str) -> float:
    """How far resident memory rises above what it was before a step, MB."""
    step = PEAKS[run](scene)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    step()
    return (_status("VmHWM") - before) / 1e3


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


if __name__ == "__main__":
    main()
