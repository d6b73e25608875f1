"""Time of the fused LM head and loss by terms, against cross-entropy alone and against plain torch.

    python tests/bench/fused_loss.py [--threads 1] [--positions 1024] [--classes 49152] [--hidden 576]

Forward and backward of head and loss, float32, the best of several rounds taken in turn in one process, CPU seconds
(so that a busy machine counts less). Intel Xeon, 1 thread, torch 2.13.0+cpu, 2026-11-24, the defaults below and
records of 32 entries; seconds, and the ratio to fused cross-entropy:

    fused cross-entropy                    1.52   1.00
    fused cross-entropy, chunk 256         1.59   1.05
    plain torch cross-entropy              1.94   1.28
    fused KL at T = 1                      1.64   1.08
    fused KL at T = 2                      1.66   1.10
    fused KL at T = 1 + cross-entropy      1.67   1.10
    fused KL at T = 2 + cross-entropy      1.85   1.22   two temperatures, two softmaxes
    the same, chunk 256                    1.88   1.24

In bfloat16 this CPU's matrix products take 4 times as long, fused or not.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn

from kdcache.config import TermConfig
from kdcache.losses.fused import FusedHead, FusedLoss
from kdcache.losses.supervision import Supervision
from kdcache.losses.terms import LossTerms
from kdcache.targets.compress import compress
from kdcache.targets.spec import RecordSpec

LABELS = TermConfig(name="cross_entropy")
KL1 = TermConfig(name="divergence")
KL2 = TermConfig(name="divergence", temperature=2.0)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in {"threads": 1, "positions": 1024, "classes": 49152, "hidden": 576, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    P, V, D = options.positions, options.classes, options.hidden
    hidden_PD = torch.randn(P, D, requires_grad=True)
    head = nn.Linear(D, V, bias=False)
    head.__class__ = FusedHead
    labels_P = torch.randint(0, V, (P,))
    targets = compress(torch.randn(P, V) * 3, RecordSpec(exact_top_k=32))

    def plain() -> None:
        nn.functional.cross_entropy(head(hidden_PD), labels_P, reduction="sum").backward()

    def fused(*terms: TermConfig, chunk: int = 1024) -> Callable[[], None]:
        task = FusedLoss(LossTerms(terms, V), Supervision(labels_P, targets), chunk)

        def step() -> None:
            head(hidden_PD, task=task)[0].backward()

        return step

    runs = {
        "fused cross-entropy": fused(LABELS),
        "fused cross-entropy, chunk 256": fused(LABELS, chunk=256),
        "plain torch cross-entropy": plain,
        "fused KL at T = 1": fused(KL1),
        "fused KL at T = 2": fused(KL2),
        "fused KL at T = 1 + cross-entropy": fused(KL1, LABELS),
        "fused KL at T = 2 + cross-entropy": fused(KL2, LABELS),
        "the same, chunk 256": fused(KL2, LABELS, chunk=256),
    }
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(options.rounds):
        for name, step in runs.items():
            hidden_PD.grad = head.weight.grad = None
            started = time.process_time()
            step()
            best[name] = min(best[name], time.process_time() - started)
    for name, seconds in best.items():
        print(f"{name:36} {seconds:7.3f} s  {seconds / best['fused cross-entropy']:5.2f}")


if __name__ == "__main__":
    main()
