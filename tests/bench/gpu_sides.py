"""What tests.bench.gpu compares: a dump and a bare forward, training steps, losses, copies over the bus.

B examples, L tokens, P positions, V classes, D hidden width.
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import kdcache
from kdcache.losses.fused import FusedLoss
from kdcache.losses.supervision import Supervision
from kdcache.models.wide_linear import WideLinear
from kdcache.targets.compress import compress
from kdcache.targets.packing import Packed
from tests.bench.cuda_timing import seconds
from tests.bench.gpu_scene import Size
from tests.bench.part import Rows

__all__ = ["Student", "bandwidth", "bare_forward", "cached", "dump", "losses", "plain"]

Step = Callable[[], None]
COPIED = 1 << 28
"""Bytes of the copies that the bus is measured with."""


def dump(folder: Path, teacher: Path, corpus: Path, size: Size, device: torch.device) -> tuple[Path, Rows]:
    """A dump with the settings that a user gets, and its speed from the second unit on."""
    from kdcache.config.file import load_config
    from kdcache.dump.run import run_dump
    from kdcache.dump.settings import DumpConfig
    from kdcache.launcher import World

    folder.mkdir(parents=True)
    settings = {
        "output": str(folder / "cache"),
        "corpus": {"paths": str(corpus), "format": "jsonl", "text_field": "text", "unit_rows": size.unit_rows},
        "teacher": {"path": str(teacher), "dtype": "bfloat16"},
        "task": {"name": "causal_lm", "sequence_length": size.length, "packing": "windows", "attention": "causal"},
        "compute": {"device": device.type},
    }
    (folder / "dump.yaml").write_text(json.dumps(settings))
    run_dump(load_config(DumpConfig, folder / "dump.yaml"), World(0, 1), profile=str(folder / "profile.json"))
    events = [e for e in json.loads((folder / "profile.json").read_text())["traceEvents"] if e["ph"] == "X"]
    ends = [max(e["ts"] + e["dur"] for e in events if e["cat"] == "compress" and e["name"] == f"unit {unit}")
            for unit in (0, size.units - 1)]  # fmt: skip
    elapsed = ends[1] - ends[0]
    took: dict[str, float] = {}
    for e in events:
        if ends[0] <= e["ts"] < ends[1]:
            took[e["cat"]] = took.get(e["cat"], 0.0) + e["dur"]
    speed = (size.units - 1) * size.unit_rows * size.length / elapsed * 1e6
    return folder / "cache", {"speed": speed, "shares": {stage: us / elapsed for stage, us in took.items()}}


def bare_forward(teacher: Path, size: Size, tokens: int, device: torch.device) -> Callable[[int], float]:
    """Tokens per second of the teacher's own forward, logits included, in batches of as many tokens as a dump's."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.bfloat16).to(device).eval()
    ids_BL = torch.randint(1, size.classes, (max(1, tokens // size.length), size.length), device=device)

    @torch.inference_mode()
    def once() -> None:
        model(ids_BL, use_cache=False)

    return lambda times: ids_BL.numel() / seconds(once, times, device)


class Student:
    """A student in bfloat16, and its AdamW."""

    def __init__(self, cache: kdcache.Cache, size: Size, device: torch.device) -> None:
        self.device = device
        config = kdcache.StudentConfig(config=size.config("student"))
        self.model: Any = kdcache.make_student(config, cache, seed=0).to(device, torch.bfloat16)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-4, fused=self.device.type == "cuda")


def cached(student: Student, cache: kdcache.Cache, size: Size, term: str, waited: list[float]) -> tuple[Step, Any]:
    """A step from the cache, and what must be closed. waited: gets the seconds that the host spends between steps."""
    model, collate = kdcache.with_loss(student.model), kdcache.Collator(student.model, cache)
    terms, optimizer = kdcache.loss_terms([{"name": term}], cache), student.optimizer(model)
    loader = kdcache.Loader(cache, global_batch=size.batch, seed=0)
    feed = kdcache.Prefetcher(loader, collate, student.device)

    def step() -> None:
        start = time.perf_counter()
        fed = next(feed)
        waited.append(time.perf_counter() - start)
        loss = model(fed.inputs, terms)[0] / fed.positions
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def close() -> None:
        feed.close()
        loader.close()

    return step, close


def plain(student: Student, cache: kdcache.Cache, size: Size) -> Step:
    """Cross-entropy in PyTorch, of windows that lie on the device."""
    optimizer, batches = student.optimizer(student.model), _windows(cache, size, student.device)

    def step() -> None:
        ids_BL = next(batches)
        logits_PV = student.model(ids_BL, use_cache=False).logits[:, :-1].flatten(0, 1)
        nn.functional.cross_entropy(logits_PV, ids_BL[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _windows(cache: kdcache.Cache, size: Size, device: torch.device) -> Iterator[Tensor]:
    """The same few batches again and again, int64 [B, L]."""
    batch = cache.read(0, min(len(cache), 4 * size.batch))
    rows = [torch.from_numpy(batch.tokens(index)) for index in range(len(batch))]
    return itertools.cycle(torch.stack(rows).to(device).split(size.batch))


def losses(size: Size, device: torch.device) -> dict[str, Callable[[], Step]]:
    """Forward and backward of output layer and loss, each made when it is wanted: their memory is counted alone."""
    P, V, D = size.loss, size.classes, size.student["hidden_size"]
    generator = torch.Generator(device).manual_seed(0)
    with device:
        hidden_PD = torch.randn(P, D, generator=generator, dtype=torch.bfloat16).requires_grad_()
        head = nn.Linear(D, V, bias=False, dtype=torch.bfloat16)
        labels_P = torch.randint(0, V, (P,), generator=generator)
        some_PV = torch.randn(64, V, generator=generator) * 5.1
        rows_P = torch.arange(P) % 64
    wide = nn.Linear(D, V, bias=False, device="meta")
    wide.__class__, wide.weight = WideLinear, head.weight
    targets = compress(some_PV, {"kind": "sampled"})[rows_P]

    def cleared(work: Callable[[], Tensor]) -> Step:
        def step() -> None:
            hidden_PD.grad = head.weight.grad = None
            work().backward()

        return step

    def fused(term: dict[str, Any]) -> Step:
        terms = kdcache.LossTerms([kdcache.make_term(**term)], V)

        return cleared(lambda: wide(hidden_PD, task=FusedLoss(terms, Supervision(labels_P, targets)))[0])

    def dense(*, compiled: bool = False) -> Step:
        teacher_PV = some_PV.bfloat16()[rows_P]

        def work() -> Tensor:
            log_q_PV, log_p_PV = head(hidden_PD).float().log_softmax(-1), teacher_PV.float().log_softmax(-1)
            return nn.functional.kl_div(log_q_PV, log_p_PV, reduction="sum", log_target=True)

        return cleared(torch.compile(work) if compiled else work)

    def labels() -> Step:
        return cleared(lambda: nn.functional.cross_entropy(head(hidden_PD).float(), labels_P, reduction="sum"))

    kl, jsd = {"name": "divergence"}, {"name": "divergence", "kind": "jsd"}
    return {
        "fused forward KL, cached record": lambda: fused(kl),
        "fused Jensen-Shannon, cached record": lambda: fused(jsd),
        "fused cross-entropy": lambda: fused({"name": "cross_entropy"}),
        "plain PyTorch, dense forward KL": dense,
        "the same with torch.compile": lambda: dense(compiled=True),
        "plain PyTorch, cross-entropy": labels,
    }


def bandwidth(cache: kdcache.Cache, student: Student, size: Size) -> Rows:
    """Bytes of a micro-batch over the bus, and how fast they and one large copy cross it."""
    collate, device = kdcache.Collator(student.model, cache), student.device
    batch, on_gpu = cache.read(0, size.batch), device.type == "cuda"
    packed = Packed.of(collate(batch), pin=on_gpu)
    large = torch.empty(COPIED if on_gpu else 1 << 20, dtype=torch.uint8, pin_memory=on_gpu)
    there, here = large.to(device), torch.empty_like(packed.buffer, device=device)
    return {
        "bytes_per_position": packed.buffer.numel() / batch.num_positions,
        "micro_batch_bytes": packed.buffer.numel(),
        "large": large.numel() / _usual(lambda: there.copy_(large, non_blocking=True), device),
        "micro_batch": packed.buffer.numel() / _usual(lambda: here.copy_(packed.buffer, non_blocking=True), device),
        "pinned": packed.buffer.is_pinned(),
        "arrival_seconds": _usual(lambda: packed.to(device, non_blocking=True).decoded(), device),
        "device": 2 * large.numel() / _usual(lambda: there.clone(), device),
    }


def _usual(work: Callable[[], Any], device: torch.device) -> float:
    work()
    return statistics.median(seconds(work, 5, device) for _ in range(7))
