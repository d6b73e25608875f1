"""What a run is, decided once before it starts: the settings taken apart into what each part of the run needs.

Nothing after this knows TrainConfig. DeepSpeed's settings are read here and nowhere else; no cache is opened.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.errors import as_code
from kdcache.launcher import World
from kdcache.losses.term import Term
from kdcache.progress import counted
from kdcache.stream.loader import Loader
from kdcache.stream.mixture import Mixture
from kdcache.stream.settings import StreamConfig
from kdcache.students.making import student_folder
from kdcache.students.settings import StudentConfig
from kdcache.train.engine import EngineSettings, read_deepspeed
from kdcache.train.loop import Pace
from kdcache.train.pinned import files_of_student, pinned_settings
from kdcache.train.settings import CheckpointConfig, EvalConfig, ScheduleConfig, TrainConfig

__all__ = ["Batches", "Length", "Run", "plan"]


@dataclass(frozen=True)
class Batches:
    """Which examples are in which step, whatever the world size."""

    global_batch: int
    micro_batch: int
    seed: int
    stream: StreamConfig

    def lanes(self, mixture: Mixture) -> int:
        return self.stream.lanes or mixture.usual_lanes(self.global_batch, self.stream.stretch)

    def check(self, mixture: Mixture, world_size: int) -> None:
        """Raises ConfigError where these caches cannot be shared out so."""
        mixture.check_sizes(
            global_batch=self.global_batch,
            micro_batch=self.micro_batch,
            lanes=self.lanes(mixture),
            world_size=world_size,
        )

    def steps_per_epoch(self, mixture: Mixture) -> int:
        return mixture.steps_per_epoch(self.global_batch, self.lanes(mixture))

    def spoken(self, mixture: Mixture, total_steps: int) -> str:
        """What to say of the epochs of a run: how often each cache of a mixture is gone through, or which examples
        fill no step, where an epoch has some and the run has an epoch."""
        steps = self.steps_per_epoch(mixture)
        epoch = f"an epoch is {counted(steps, 'step')} of {self.global_batch} examples"
        if not mixture.alone:
            passes = mixture.passes(total_steps * self.global_batch)
            times = (f"{cache.root.url} {n:.3g} times" for cache, n in zip(mixture.caches, passes, strict=True))
            return f"{epoch}, as many as all caches have; {counted(total_steps, 'step')} go through {', '.join(times)}"
        left = len(mixture) - steps * self.global_batch
        if not left or total_steps < steps:
            return ""
        return f"{epoch}: {left:,} of {len(mixture):,} are left out of it, others in each epoch"

    def loader(self, mixture: Mixture, world: World) -> Loader:
        """This rank's part of every step."""
        return Loader(
            mixture,
            global_batch=self.global_batch,
            micro_batch=self.micro_batch,
            lanes=self.lanes(mixture),
            length_groups=self.stream.length_groups,
            length_blocks=self.stream.length_blocks,
            seed=self.seed,
            rank=world.rank,
            world_size=world.size,
            memory_gb=self.stream.memory_gb,
        )


@dataclass(frozen=True)
class Length:
    """In steps or in epochs, one of them; how the learning rate changes meanwhile, and how often it is told."""

    steps: int | None
    epochs: float | None
    peak: float
    schedule: ScheduleConfig
    log_every: int


@dataclass(frozen=True)
class Run:
    """One training run. engine: what decides DeepSpeed's engine. pinned: what a resumed run may not change,
    but for allow_change.

    caches: paths to learn from, each with its weight; one alone has 1. told: what the student's card says of the
    settings, by name. settings: all of them, as JSON. force: take the output
    over, whoever has it.
    """

    caches: tuple[tuple[str, float], ...]
    output: Path
    student: StudentConfig
    terms: tuple[Term, ...]
    batches: Batches
    length: Length
    engine: EngineSettings
    checkpoint: CheckpointConfig
    eval: EvalConfig | None
    loss_chunk: int
    export_modules: bool
    seed: int
    device: str
    hang_minutes: float
    pinned: dict[str, Any]
    allow_change: tuple[str, ...]
    told: dict[str, str]
    settings: dict[str, Any]
    force: bool

    @property
    def most_in_a_batch(self) -> int:
        """Examples of a forward pass of a rank, in training and in evaluations."""
        return max(self.batches.micro_batch, 1 if self.eval is None else self.eval.batch_examples)

    def pace(self, mixture: Mixture) -> Pace:
        """Of a run over these caches."""
        length = self.length
        epoch = self.batches.steps_per_epoch(mixture)
        total = length.steps or math.ceil((length.epochs or 0) * epoch)
        return Pace(total, epoch, length.peak, length.schedule, self.seed, length.log_every)

    def pinned_with(self, mixture: Mixture) -> dict[str, Any]:
        """What a checkpoint and a finished run keep to be compared with. Reads the whole folder of the student."""
        path = self.student.path
        files = {} if path is None else files_of_student(student_folder(self.student))
        return {**_pinned_caches(mixture), **files, **self.pinned}


def plan(config: TrainConfig, *, force: bool = False) -> Run:
    """Take the settings apart. force: see Run.

    Raises ConfigError for DeepSpeed settings that cannot be, as read_deepspeed does.
    """
    own = read_deepspeed(config.deepspeed, config.student.dtype)
    engine = EngineSettings(own, config.optimizer, config.global_batch, config.micro_batch)
    return Run(
        caches=_caches(config),
        output=Path(config.output),
        student=config.student,
        terms=config.terms,
        batches=Batches(config.global_batch, config.micro_batch, config.seed, config.stream),
        length=Length(config.steps, config.epochs, config.optimizer.learning_rate, config.schedule, config.log_every),
        engine=engine,
        checkpoint=config.checkpoint,
        eval=config.eval,
        loss_chunk=config.loss_chunk,
        export_modules=config.export_modules,
        seed=config.seed,
        device=config.device,
        hang_minutes=config.hang_minutes,
        pinned=pinned_settings(config, engine),
        allow_change=config.allow_change,
        told=_told(config),
        settings=config.model_dump(mode="json"),
        force=force,
    )


def _caches(config: TrainConfig) -> tuple[tuple[str, float], ...]:
    if config.caches is None:
        assert config.cache is not None
        return ((config.cache, 1.0),)
    return tuple((part.path, part.weight) for part in config.caches)


def _pinned_caches(mixture: Mixture) -> dict[str, Any]:
    """The cache by its digest; of a mixture each, and its weight."""
    if mixture.alone:
        return {"cache": mixture.caches[0].digest}
    pinned: dict[str, Any] = {}
    for number, (cache, weight) in enumerate(zip(mixture.caches, mixture.weights, strict=True)):
        pinned |= {f"caches.{number}": cache.digest, f"caches.{number}.weight": weight}
    return pinned


def _told(config: TrainConfig) -> dict[str, str]:
    return {
        "terms": ", ".join(as_code(term.model_dump_json(exclude_none=True)) for term in config.terms),
        "optimizer": f"AdamW, {as_code(config.optimizer.model_dump_json())}, "
        f"schedule {as_code(config.schedule.model_dump_json())}",
    }
