"""The steps of a run.

A step's loss is the sum of the terms over the supervised positions of the global batch, divided by their number. Each
micro-batch's sum is scaled by world size × accumulation / positions: DeepSpeed divides by both when it averages, so
the gradient is the same whatever the world size, micro-batch and accumulation. One all-reduce a step, of the count and
of the votes on saving and leaving (leaving.py).

Inputs are made ahead (students/prefetch.py), and the host asks the device for numbers once a step, when the ranks meet:
for the counts, and whether the loss of the step before was a number (`settle` asks at once, before that step is logged,
scored or saved). What is logged stays on the device until it is.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch

from kdcache.errors import TrainError
from kdcache.launcher import World
from kdcache.losses.terms import LossTerms
from kdcache.progress import Progress
from kdcache.students.prefetch import Prefetched
from kdcache.train.leaving import Leaving
from kdcache.train.log import Log
from kdcache.train.phases import Phases
from kdcache.train.schedule import learning_rate
from kdcache.train.settings import ScheduleConfig

__all__ = ["Pace", "Trainer"]


@dataclass(frozen=True)
class Pace:
    """How many steps there are, and what of them depends on their number alone.

    peak: the learning rate that the schedule reaches. seed: of dropout, by step and rank. log_every: steps.
    """

    total_steps: int
    steps_per_epoch: int
    peak: float
    schedule: ScheduleConfig
    seed: int
    log_every: int

    def learning_rate(self, step: int) -> float:
        return learning_rate(step, total_steps=self.total_steps, peak=self.peak, schedule=self.schedule)

    def is_reported(self, step: int) -> bool:
        """Whether a line is logged after so many steps."""
        return step % self.log_every == 0 or step == self.total_steps


class Trainer:
    """Takes steps with an engine; `step` counts those that are done."""

    def __init__(
        self,
        engine: Any,
        pace: Pace,
        terms: LossTerms,
        world: World,
        *,
        device: str,
        step: int,
        leaving: Leaving,
        phases: Phases | None = None,
    ) -> None:
        self.engine, self.pace, self.terms, self.world = engine, pace, terms, world
        self.leaving, self.phases = leaving, phases or Phases()
        self.device = torch.device(f"cuda:{world.local_rank}" if device == "cuda" else "cpu")
        self.step = step
        self._norm: Any = 0.0
        self._finite = torch.ones(1, dtype=torch.bool, device=self.device)
        self._window = _Window(len(terms.names), self.device)

    def run(self, feed: Iterator[Prefetched], log: Log, after: Callable[[int], None]) -> None:
        """All steps that are left; after(step) follows each. Raises TrainError for a loss that is not a number."""
        total = self.pace.total_steps
        with Progress(total, "steps", "train", done=self.step, quiet=not self.world.first) as progress:
            while self.step < total:
                self._window.add(*self.take_step(feed))
                if self.pace.is_reported(self.step):
                    self.settle()
                    self._report(log, progress)
                progress.advance()
                after(self.step)

    def take_step(self, feed: Iterator[Prefetched]) -> tuple[torch.Tensor, int, int]:
        """One update. Returns the terms' sums over this rank's positions, their global number, this rank's tokens."""
        self.phases.begin("step", self.step)
        rate = self.pace.learning_rate(self.step)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(_dropout_seed(self.pace.seed, self.step, self.world.rank))
        first = next(feed)
        with self.phases.waiting():
            summed = self.world.sum(self._sent([first.positions, *self.leaving.votes()]))
            positions, *votes, finite = map(int, torch.cat([summed, self._finite]).tolist())
        self.leaving.hear(votes)
        self._go_on(bool(finite))
        scale = self.world.size * first.of / max(positions, 1)
        sums_K = torch.zeros(len(self.terms.names), dtype=torch.float64, device=self.device)
        skipped = self.engine.skipped_steps
        for fed in chain([first], islice(feed, first.of - 1)):
            loss, batch_sums_K = self.engine(fed.inputs, self.terms)
            self.engine.backward(loss * scale)
            sums_K += batch_sums_K
            self._norm = self._gradient_norm_of_stage_0()
            self.engine.step()
            self.phases.got_on()
        self.step += 1
        self._finite = sums_K.isfinite().all()[None]
        if self.engine.skipped_steps > skipped and not self.engine.fp16_enabled():
            self.settle()
            raise self._diverged("the gradient")
        return sums_K, positions, first.tokens

    def settle(self) -> None:
        """Raises TrainError where the loss of the last step is not a number."""
        self._go_on(bool(self._finite.item()))

    def _go_on(self, finite: bool) -> None:
        if not finite:
            raise self._diverged(f"the loss on rank {self.world.rank}")

    def _sent(self, numbers: list[int]) -> torch.Tensor:
        """float64 on the device, which the host does not wait for."""
        there = torch.tensor(numbers, dtype=torch.float64, pin_memory=self.device.type == "cuda")
        return there.to(self.device, non_blocking=True)

    def _diverged(self, what: str) -> TrainError:
        return TrainError(
            f"{what} in step {self.step} is not a number, expected a finite one; the checkpoints are kept: "
            "lower optimizer.learning_rate or terms' weights and start anew with another output"
        )

    def gradient_norm(self) -> float:
        """Norm of the last step's gradient over all ranks, before clipping."""
        norm = self.engine.get_global_grad_norm()
        return float(self._norm if norm is None else norm)

    def _gradient_norm_of_stage_0(self) -> Any:
        """At stage 0 the engine clips without keeping the norm, and drops the gradients."""
        if self.engine.zero_optimization_stage() > 0 or not self.engine.is_gradient_accumulation_boundary():
            return 0.0
        if not self.pace.is_reported(self.step + 1):
            return 0.0
        gradients = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _report(self, log: Log, progress: Progress) -> None:
        values = self._window.close(self.world, self.terms)
        values |= {"gradient_norm": self.gradient_norm(), "lr": self.engine.optimizer.param_groups[0]["lr"]}
        log.write(self.step, "train", values)
        progress.set(**{name: f"{value:.4g}" for name, value in values.items()})


class _Window:
    """What happened since the last report."""

    def __init__(self, terms: int, device: torch.device) -> None:
        self.sums_K = torch.zeros(terms, dtype=torch.float64, device=device)
        self.positions, self.tokens, self.start = 0, 0, time.monotonic()

    def add(self, sums_K: torch.Tensor, positions: int, tokens: int) -> None:
        self.sums_K += sums_K
        self.positions += positions
        self.tokens += tokens

    def close(self, world: World, terms: LossTerms) -> dict[str, float]:
        """Mean loss and terms per position, and tokens per second, over all ranks; starts the next window."""
        tokens = torch.full_like(self.sums_K[:1], self.tokens)
        totals = world.sum(torch.cat([self.sums_K, tokens])).cpu()
        means_K = totals[:-1] / max(self.positions, 1)
        now = time.monotonic()
        values = {"loss": float(terms.total(means_K))}
        values |= dict(zip(terms.names, means_K.tolist(), strict=True))
        values["tok/s"] = float(totals[-1]) / max(now - self.start, 1e-9)
        self.sums_K = torch.zeros_like(self.sums_K)
        self.positions, self.tokens, self.start = 0, 0, now
        return values


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    """One 64-bit seed of three numbers (SplitMix64's mixing)."""
    mask, state = (1 << 64) - 1, 0
    for part in (seed, step, rank):
        state = (state + part + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1
