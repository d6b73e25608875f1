"""The settings of a `kdcache train` run."""

from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from kdcache.config.base import Config, PathText, Run
from kdcache.losses.settings import TermConfig
from kdcache.stream.fitting import advice
from kdcache.stream.settings import StreamConfig
from kdcache.students.settings import StudentConfig

__all__ = [
    "CheckpointConfig",
    "EvalConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "TrainConfig",
]


class ScheduleConfig(Config):
    """Learning rate: linear warm-up, then constant, linear or cosine decay, to final_fraction of the peak at the end.

    So a run that goes on with other steps or epochs goes on with another rate, unless it is constant.
    """

    kind: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: NonNegativeInt = 0
    final_fraction: NonNegativeFloat = 0.1


class OptimizerConfig(Config):
    """AdamW."""

    learning_rate: PositiveFloat = 5e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.1
    clip_norm: NonNegativeFloat = 1.0


class CheckpointConfig(Config):
    """every: steps between checkpoints, 0 for one at the end only. keep: how many of the newest stay."""

    every: NonNegativeInt = 500
    keep: PositiveInt = 2


class EvalConfig(Config):
    """cache: a held-out cache. every: steps between evaluations, 0 for one at the end only."""

    cache: PathText
    every: NonNegativeInt = 0
    batch_examples: PositiveInt = 8
    max_examples: PositiveInt | None = None


class TrainConfig(Run):
    """A `kdcache train` run. One of steps and epochs says how long.

    deepspeed: path of a DeepSpeed JSON file, or its settings here; what the other keys say is not repeated in it, and
        "auto" is answered as kdcache/train/deepspeed_autos.py says.
    loss_chunk: positions whose logits exist at one time in the fused LM head and loss.
    export_bottleneck: write what bottleneck terms trained beside the student, as bottleneck.safetensors.
    """

    cache: PathText
    output: PathText
    student: StudentConfig
    deepspeed: PathText | dict[str, Any] = Field({"zero_optimization": {"stage": 1}})
    terms: tuple[TermConfig, ...] = (TermConfig(name="divergence"),)
    global_batch: PositiveInt = 64
    micro_batch: PositiveInt = 8
    steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    stream: StreamConfig = StreamConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig | None = None
    loss_chunk: PositiveInt = 1024
    log_every: PositiveInt = 10
    export_bottleneck: bool = False
    seed: NonNegativeInt = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.export_bottleneck and all(term.name != "bottleneck" for term in self.terms):
            raise ValueError("got export_bottleneck without a bottleneck term, expected one in terms")
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("expected exactly one of steps and epochs")
        if not self.terms or all(term.weight == 0 for term in self.terms):
            raise ValueError("got no loss term with a weight above 0, expected at least one in terms")
        if self.global_batch % self.stream.lanes:
            raise ValueError(
                f"got global_batch {self.global_batch} and stream.lanes {self.stream.lanes}, "
                f"expected lanes to divide global_batch; {self._fitting()}"
            )
        return self

    def _fitting(self) -> str:
        given = {"global_batch": self.global_batch, "stream.lanes": self.stream.lanes, "micro_batch": self.micro_batch}
        return advice(given)
