"""The settings of a `kdcache train` run."""

from typing import Any, Literal, Self, get_args

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from kdcache.config.base import Config, Count, LocalText, PathText, Run
from kdcache.losses.divergence_term import DivergenceTerm
from kdcache.losses.term import AnyTerm
from kdcache.stream.fitting import groups_fault, lanes_fault
from kdcache.stream.settings import MixedCache, StreamConfig
from kdcache.students.settings import StudentConfig

__all__ = [
    "CHANGEABLE",
    "CheckpointConfig",
    "EvalConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "TrainConfig",
]

Changeable = Literal[
    "optimizer.learning_rate",
    "optimizer.clip_norm",
    "schedule.kind",
    "schedule.warmup_steps",
    "schedule.final_fraction",
    "module",
]
CHANGEABLE: tuple[str, ...] = get_args(Changeable)
"""What decides the result and may still change when a run goes on, if the settings allow it."""


class ScheduleConfig(Config):
    """The learning rate: a linear warm-up to its peak, then kind, down to final_fraction of the peak at the last step.

    A run that goes on with more steps or epochs than it was begun with goes on with another rate, unless the rate is
    constant.

    kind: the shape of the decay.
    warmup_steps: steps of the linear warm-up.
    final_fraction: the rate of the last step, as a fraction of the peak.
    """

    kind: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: NonNegativeInt = 0
    final_fraction: NonNegativeFloat = 0.1


class OptimizerConfig(Config):
    """AdamW.

    learning_rate: the peak of the schedule.
    betas: the decay rates of the two moments.
    eps: added to the denominator.
    weight_decay: decoupled from the gradient; norms and biases have none.
    clip_norm: the largest norm of the whole gradient; 0 does not clip.
    """

    learning_rate: PositiveFloat = 5e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.1
    clip_norm: NonNegativeFloat = 1.0


class CheckpointConfig(Config):
    """When a run saves what it needs to go on.

    A checkpoint is written when either is reached, after the last step, and before a run leaves that was told to stop
    by SIGINT, SIGTERM or its time limit.

    every: steps between two checkpoints; 0 counts no steps.
    minutes: time after which a checkpoint is written at the end of the step; 0 looks at no clock.
    keep: how many of the newest checkpoints stay.
    stop_after_minutes: end the run after this time, with a checkpoint and exit status 75, so that a job with a limit
        loses nothing. The same command goes on. It counts from when the ranks have met; leave room for a step and a
        checkpoint.
    """

    every: NonNegativeInt = 500
    minutes: NonNegativeFloat = 10.0
    keep: Count = 2
    stop_after_minutes: PositiveFloat | None = None


class EvalConfig(Config):
    """Evaluation on held-out text during a run.

    cache: a cache of text that the training cache does not hold, with the same task, tokenizer and classes.
    every: steps between two evaluations; 0 evaluates at the end only.
    batch_examples: examples per forward pass of a rank.
    max_examples: how many of the cache's examples are read, by default all.
    """

    cache: PathText
    every: NonNegativeInt = 0
    batch_examples: Count = 8
    max_examples: Count | None = None


class TrainConfig(Run):
    """The settings of a training run. Exactly one of steps and epochs says how long it is, and one of cache and caches
    what the student learns from.

    cache: the folder or URL of the cache to learn from.
    caches: two or more caches to learn from, each with a weight. Each global batch has its share of each, whatever
        their sizes, so that a small cache is gone through more often than a large one; an epoch is as many examples as
        all of them have. They have one task, tokenizer, set of classes and record.
    output: the folder of the run: logs, checkpoints, and at the end student/, a Hugging Face folder.
    student: what the student is made from.
    deepspeed: the path of a DeepSpeed JSON file, or its settings here. What the other keys of this file say is not
        repeated in it, and "auto" is answered as kdcache/train/deepspeed_autos.py says.
    terms: the loss, a weighted sum of terms.
    global_batch: examples per step, over all ranks.
    micro_batch: examples per forward pass of a rank.
    steps: the length of the run in steps.
    epochs: the length of the run in passes over the cache, or over as many examples as all caches have; it may be a
        fraction.
    optimizer: AdamW and its settings.
    schedule: how the learning rate changes.
    stream: the order of examples.
    checkpoint: when the run saves what it needs to go on.
    eval: a held-out cache to evaluate on.
    loss_chunk: for how many positions the fused output layer and loss hold logits at one time.
    log_every: steps between two lines of the log.
    export_modules: write what terms such as bottleneck trained beside the student, as modules.safetensors in the
        folder of the run.
    seed: of the order of examples, the student's first weights and dropout.
    allow_change: settings that may differ from those that the run was begun with when it goes on, such as
        [optimizer.learning_rate]; "module" is the source of the module of yours. Each change is kept in the log and on
        the model card. Without it a setting that decides the result is refused when it differs.
    hang_minutes: after how long a rank that is not heard of, or does not get on while the others wait for it, is named
        with what it was doing, and the run ends. It gets on with each batch of a step or an evaluation and each MiB of
        a checkpoint.
    device: "auto" takes a GPU where there is one.
    """

    cache: PathText | None = None
    caches: tuple[MixedCache, ...] | None = None
    output: LocalText
    student: StudentConfig
    deepspeed: LocalText | dict[str, Any] = Field({"zero_optimization": {"stage": 1}})
    terms: tuple[AnyTerm, ...] = (DivergenceTerm(name="divergence"),)
    global_batch: Count = 64
    micro_batch: Count = 8
    steps: Count | None = None
    epochs: PositiveFloat | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    stream: StreamConfig = StreamConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig | None = None
    loss_chunk: Count = 1024
    log_every: Count = 10
    export_modules: bool = False
    seed: NonNegativeInt = 0
    allow_change: tuple[Changeable, ...] = ()
    hang_minutes: PositiveFloat = 10.0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.export_modules and not any(term.trains_a_module for term in self.terms):
            raise ValueError("got export_modules without a term that trains one, expected such as bottleneck in terms")
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("expected exactly one of steps and epochs")
        if (self.cache is None) == (self.caches is None):
            got = "neither cache nor caches" if self.cache is None else "both cache and caches"
            raise ValueError(f"got {got}, expected exactly one of them")
        if self.caches is not None and len(self.caches) < 2:
            raise ValueError(f"got {len(self.caches)} in caches, expected two or more; for one cache use cache")
        paths = [part.path for part in self.caches or ()]
        if twice := next((path for path in paths if paths.count(path) > 1), None):
            raise ValueError(
                f"got {twice} twice in caches, expected different ones; give it one weight, the sum of the two"
            )
        if not self.terms or all(term.weight == 0 for term in self.terms):
            raise ValueError("got no loss term with a weight above 0, expected at least one in terms")
        if fault := lanes_fault(self.global_batch, self.stream.lanes or self.global_batch):
            raise ValueError(fault)
        if fault := groups_fault(self.global_batch, self.stream.length_groups):
            raise ValueError(fault)
        return self
