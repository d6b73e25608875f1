"""Time and memory of the fused output layer and loss, against dense losses and other people's.

What was measured with earlier versions of this file: the loss alone, without its matrix products, takes .09 s for
cross-entropy, .10 for a divergence, .15 for two temperatures, of 1.65 s; in bfloat16 a CPU's matrix products take 4
times as long, fused or not. On one thread of a quiet Intel Xeon, of fused cross-entropy's time: fused KL .99 and 1.00
in two runs, at T = 2 beside cross-entropy 1.02 and 1.04, plain torch's cross-entropy 1.15 and 1.16.

P positions, V classes, D hidden width.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

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
from tests.bench.part import Part, Rows
from tests.bench.tables import figure, spread, table
from tests.bench.timing import against, interleaved, raised_memory

CLASSES, HIDDEN = 49_152, 576
LABELS = make_term(name="cross_entropy")
KL1 = make_term(name="divergence")
KL2 = make_term(name="divergence", temperature=2.0)
JSD = make_term(name="divergence", kind="jsd")
ENTROPY = make_term(name="entropy")


class Scene:
    """An output layer, hidden states, labels and records of 32 entries; the records of 64 rows over and over."""

    def __init__(self, P: int, V: int, D: int) -> None:
        self.V = V
        self.hidden_PD = torch.randn(P, D, requires_grad=True)
        self.head = nn.Linear(D, V, bias=False)
        self.head.__class__ = WideLinear
        self.labels_P = torch.randint(0, V, (P,))
        self.rows = torch.arange(P) % 64
        self.some_PV = torch.randn(64, V) * 3
        self.targets = compress(self.some_PV, Sampled(exact_top_k=32))[self.rows]
        self.teacher_layer = OutputLayer(torch.randn(V, D))

    def factored(self) -> Callable[[], None]:
        hidden_ND = torch.randn(256, HIDDEN)
        encoder = Encoder(make_basis(self.teacher_layer, hidden_ND, 64), self.teacher_layer)
        logits_PV = self.teacher_layer.logits(hidden_ND[:64])
        record = compress(logits_PV, Factored(rank=64), hidden_PD=hidden_ND[:64], encoder=encoder)
        self.targets = record[self.rows]
        return self.fused(KL2)

    def fused(self, *terms: Term, chunk: int = 1024) -> Callable[[], None]:
        task = FusedLoss(LossTerms(terms, self.V), Supervision(self.labels_P, self.targets), chunk)
        return lambda: self.head(self.hidden_PD, task=task)[0].backward()

    def plain(self) -> None:
        nn.functional.cross_entropy(self.head(self.hidden_PD), self.labels_P, reduction="sum").backward()

    def dense(self) -> Callable[[], None]:
        teacher_PV = self.some_PV[self.rows]

        def step() -> None:
            log_q_PV = self.head(self.hidden_PD).log_softmax(-1)
            log_p_PV = teacher_PV.log_softmax(-1)
            nn.functional.kl_div(log_q_PV, log_p_PV, reduction="sum", log_target=True).backward()

        return step

    def torchtune(self) -> Callable[[], None]:
        from torchtune.modules.loss import ForwardKLWithChunkedOutputLoss

        chunks = 8
        loss, teacher_PV = ForwardKLWithChunkedOutputLoss(chunks), self.some_PV[self.rows]
        teacher = [part[None] for part in teacher_PV.chunk(chunks)]
        return lambda: loss(
            [self.head(part)[None] for part in self.hidden_PD.chunk(chunks)], teacher, self.labels_P[None]
        ).backward()

    def liger(self) -> Callable[[], None]:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, compiled=False)
        hidden_PD: Tensor = torch.randn(self.hidden_PD.shape)
        weight_VD = self.teacher_layer.weight_VD
        return lambda: loss(self.hidden_PD, self.head.weight, hidden_PD, weight_VD, self.labels_P).backward()


SIDES: dict[str, Callable[[Scene], Callable[[], None]]] = {
    "fused forward KL, cached record": lambda scene: scene.fused(KL1),
    "fused cross-entropy": lambda scene: scene.fused(LABELS),
    "fused KL at T = 2 with cross-entropy": lambda scene: scene.fused(KL2, LABELS),
    "fused KL with entropy matching": lambda scene: scene.fused(KL1, ENTROPY),
    "fused JSD, cached record": lambda scene: scene.fused(JSD),
    "fused KL at T = 2, factored record of rank 64": Scene.factored,
    "plain torch, cross-entropy": lambda scene: scene.plain,
    "plain torch, dense forward KL": Scene.dense,
    "torchtune, ForwardKLWithChunkedOutputLoss": lambda scene: failing_later(scene.torchtune),
    "Liger, LigerFusedLinearJSDLoss": lambda scene: failing_later(scene.liger),
}
MEASURED = (
    "fused forward KL, cached record",
    "plain torch, cross-entropy",
    "plain torch, dense forward KL",
    "torchtune, ForwardKLWithChunkedOutputLoss",
    "Liger, LigerFusedLinearJSDLoss",
)


def failing_later(make: Callable[[], Callable[[], None]]) -> Callable[[], None]:
    """What a peer makes; if it cannot, a step that says why."""
    try:
        return make()
    except Exception as error:
        failed = error

        def step() -> None:
            raise failed

        return step


def run(quick: bool) -> Rows:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    scene = Scene(256 if quick else 1024, CLASSES, HIDDEN)
    sides = {name: make(scene) for name, make in SIDES.items()}

    def cleared(step: Callable[[], None]) -> Callable[[], None]:
        def run_it() -> None:
            scene.hidden_PD.grad = scene.head.weight.grad = None
            step()

        return run_it

    times = interleaved({name: cleared(step) for name, step in sides.items()}, 2 if quick else 6)
    memory: dict[str, float | str] = {}
    for name in MEASURED:
        words = [sys.executable, "-m", "tests.bench.loss", name, str(512 if quick else 4096)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        memory[name] = float(done.stdout.split()[-1]) if done.returncode == 0 else done.stderr.strip().splitlines()[-1]
    return {"times": times, "memory": memory, "positions": [len(scene.hidden_PD), 512 if quick else 4096]}


def render(rows: Rows) -> str:
    times, memory = rows["times"], rows["memory"]
    base = times["fused forward KL, cached record"]
    lines = []
    for name, row in times.items():
        size = memory.get(name, "")
        megabytes = figure(size) if isinstance(size, float) else size
        if "failed" in row:
            lines.append([name, f"not run: {row['failed']}", "", megabytes])
        else:
            lines.append([name, figure(statistics.median(row["cpu"])), spread(against(row, base)), megabytes])
    few, many = rows["positions"]
    return (
        f"Forward and backward of output layer and loss on hidden states that are there: {CLASSES:,} classes, width "
        f"{HIDDEN}, float32, one thread, {few:,} positions. Ratios are to the first row; in brackets the least and the "
        "greatest in one round. Dense, torchtune and Liger have the teacher's logits or hidden states in memory, and "
        "Liger's time includes the product of the teacher's output layer. Memory is what a step of "
        f"{many:,} positions needs above model, hidden states and what is known of the teacher.\n\n"
        + table(["loss", "CPU s", "ratio", "memory, MB"], lines)
    )


PART = Part(name="loss", title="Loss: time and memory of a step", minutes=5, run=run, render=render, peers=True)

if __name__ == "__main__":
    torch.manual_seed(0)
    step = SIDES[sys.argv[1]](Scene(int(sys.argv[2]), CLASSES, HIDDEN))
    print(raised_memory(step))
