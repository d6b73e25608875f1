"""DeepSpeed's settings and its engine.

The user's JSON says how: ZeRO stage, precision, buckets, offload. What a run means comes from the training config
alone (batch sizes, optimizer, schedule, clipping, monitor), so those keys are refused in the JSON, unless they are
left open there (deepspeed_autos.py). ZeRO stages 0 to 3; half precision needs stage 1 or more (at stage 0 bf16 keeps no
float32 master weights and diverges).

Every rank makes the whole student on its CPU before the engine splits it: a student must fit in the host's memory
once a rank. AdamW is torch's on every device (no compiler needed), DeepSpeed's own where the optimizer is offloaded.
Weight decay is for matrices only; biases and norm scales have none.
"""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from kdcache.errors import ConfigError, TrainError, one_line
from kdcache.near import did_you_mean
from kdcache.students.loss import StudentWithLoss, head_width
from kdcache.train.deepspeed_autos import answered, is_left_open, with_sizes, without_idle_offloading
from kdcache.train.settings import OptimizerConfig

__all__ = ["EngineSettings", "make_engine", "make_monitor", "read_deepspeed", "settings_of_groups"]

OWNED = {
    "train_batch_size": "global_batch",
    "train_micro_batch_size_per_gpu": "micro_batch",
    "gradient_accumulation_steps": "global_batch and micro_batch",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "gradient_clipping": "optimizer.clip_norm",
    "checkpoint": "checkpoint",
    "steps_per_print": "log_every",
}
MONITORS = {"tensorboard": "tensorboard", "wandb": "wandb", "csv_monitor": "csv", "comet": "comet_ml"}
"""The package that each is written with."""
PASSED_ON = (
    "zero_optimization",
    "bf16",
    "fp16",
    "activation_checkpointing",
    "aio",
    "comms_logger",
    "communication_data_type",
    "compile",
    "data_types",
    "dump_state",
    "flops_profiler",
    "gradient_predivide_factor",
    "memory_breakdown",
    "prescale_gradients",
    "wall_clock_breakdown",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
)


@dataclass(frozen=True)
class EngineSettings:
    """What decides an engine: the user's DeepSpeed settings, read and checked, and what a step of the run is.

    own: as read_deepspeed gives them.
    """

    own: dict[str, Any]
    optimizer: OptimizerConfig
    global_batch: int
    micro_batch: int

    @property
    def stage(self) -> int:
        return int(zero_stage(self.own))

    @property
    def half_precision(self) -> str | None:
        """ "bf16", "fp16" or None."""
        return half_precision(self.own)

    def for_deepspeed(self, world_size: int, *, universal: bool = False, width: int | None = None) -> dict[str, Any]:
        """All of DeepSpeed's settings.

        universal: the engine will load a universal checkpoint. width: of the student, for sizes that are left open.
        """
        own = with_sizes(self.own, width)
        accumulation = max(1, self.global_batch // world_size // self.micro_batch)
        optimizer = self.optimizer
        zero = own.get("zero_optimization", {})
        offloaded = "offload_optimizer" in zero or bool(zero.get("cpu_offload"))
        return {
            **{key: value for key, value in own.items() if key not in MONITORS},
            "train_micro_batch_size_per_gpu": self.micro_batch,
            "gradient_accumulation_steps": accumulation,
            "train_batch_size": self.micro_batch * accumulation * world_size,
            "gradient_clipping": optimizer.clip_norm,
            "steps_per_print": 1 << 62,
            "optimizer": {
                "type": "AdamW",
                "params": {
                    "lr": optimizer.learning_rate,
                    "betas": list(optimizer.betas),
                    "eps": optimizer.eps,
                    "weight_decay": optimizer.weight_decay,
                    "torch_adam": not offloaded,
                },
            },
            "checkpoint": {"load_universal": universal},
        }

    def for_monitors(self, output: Path) -> dict[str, Any]:
        """TensorBoard in OUTPUT/tensorboard, and whatever monitors the user's JSON has."""
        tensorboard = {"enabled": True, "output_path": str(output), "job_name": "tensorboard"}
        return {"tensorboard": tensorboard, **{key: self.own[key] for key in MONITORS if key in self.own}}


def read_deepspeed(source: str | dict[str, Any], student_dtype: str = "float32") -> dict[str, Any]:
    """The user's DeepSpeed settings, checked. source: path of a JSON file, or the settings themselves.

    Files written for other trainers leave values open as "auto"; student_dtype, "bfloat16" or "float16", answers those
    of bf16 and fp16. Sizes that follow the student's width stay "auto".
    Raises ConfigError: no such file, not JSON, an unknown key, a key that the training config owns, an "auto" without
    an answer, half precision at stage 0.
    """
    where = "deepspeed"
    settings: Any = source
    if isinstance(source, str):
        where = source
        try:
            settings = json.loads(Path(source).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"got deepspeed: {source}, which does not exist; expected a DeepSpeed JSON file"
            ) from None
        except (ValueError, IsADirectoryError) as error:
            raise ConfigError(f"{source} is not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{where} holds {type(settings).__name__}, expected a mapping of DeepSpeed settings")
    kept = {key: value for key, value in settings.items() if not (key in OWNED and is_left_open(key, value))}
    for key in kept:
        _check_key(key, where)
    for key in ("zero_optimization", "bf16", "fp16", *MONITORS):
        _check_shape(kept, key, where)
    kept = answered(kept, student_dtype, where)
    if "zero_optimization" in kept:
        kept["zero_optimization"] = without_idle_offloading(kept["zero_optimization"])
    stage = zero_stage(kept)
    if stage not in (0, 1, 2, 3):
        raise ConfigError(f"got zero_optimization.stage {stage!r} in {where}, expected 0, 1, 2 or 3")
    if stage == 0 and half_precision(kept):
        raise ConfigError(
            f"got {half_precision(kept)} at ZeRO stage 0 in {where}, expected stage 1, 2 or 3: "
            "stage 0 keeps no float32 master weights and diverges"
        )
    return kept


def _check_key(key: str, where: str) -> None:
    if key in OWNED:
        raise ConfigError(
            f"got {key} in {where}, expected it only in the training config: remove it and set {OWNED[key]}"
        )
    if key not in (*PASSED_ON, *MONITORS):
        known = (*PASSED_ON, *MONITORS)
        listed = "" if (meant := did_you_mean(key, known)) else f"; expected one of {', '.join(known)}"
        raise ConfigError(f"unknown key {key} in {where}{meant}{listed}")


def _check_shape(settings: dict[str, Any], key: str, where: str) -> None:
    """Raises ConfigError for a section that is none, or that is neither on nor off."""
    section = settings.get(key, {})
    if not isinstance(section, dict):
        example = {"stage": 1} if key == "zero_optimization" else {"enabled": True}
        raise ConfigError(f"got {key} {section!r} in {where}, expected a mapping such as {json.dumps(example)}")
    enabled = section.get("enabled", False)
    if key != "zero_optimization" and not (isinstance(enabled, bool) or enabled == "auto"):
        raise ConfigError(f"got {key}.enabled {enabled!r} in {where}, expected true or false")
    if key in MONITORS and enabled is True and find_spec(MONITORS[key]) is None:
        raise ConfigError(
            f"got {key}.enabled in {where} and no package {MONITORS[key]}, expected it installed "
            f"(pip install {MONITORS[key].replace('_', '-')}), or {key} taken out"
        )


def zero_stage(settings: dict[str, Any]) -> Any:
    return settings.get("zero_optimization", {}).get("stage", 0)


def half_precision(settings: dict[str, Any]) -> str | None:
    """ "bf16", "fp16" or None."""
    return next((name for name in ("bf16", "fp16") if settings.get(name, {}).get("enabled")), None)


def make_monitor(settings: dict[str, Any]) -> Any:
    """DeepSpeed's monitor, apart from the engine: the engine would log its scaled loss. Rank 0 writes.

    settings: as EngineSettings.for_monitors gives them.

    Raises ConfigError for settings it refuses, TrainError where a service of the user's does not answer.
    """
    from deepspeed.monitor.config import get_monitor_config
    from deepspeed.monitor.monitor import MonitorMaster

    try:
        return MonitorMaster(get_monitor_config(settings))
    except ValidationError as error:
        raise _refused(error) from None
    except Exception as error:  # whatever such a service raises
        others = ", ".join(key for key in MONITORS if key in settings)
        words = one_line(error, 300)
        raise TrainError(
            f"DeepSpeed's monitors ({others}) do not start: {type(error).__name__}: {words}; "
            "expected ones that do, or their keys taken out of deepspeed"
        ) from None


def make_engine(model: StudentWithLoss, settings: EngineSettings, world_size: int, *, universal: bool = False) -> Any:
    """A DeepSpeed engine that trains all parameters of the model. Raises ConfigError for settings it refuses."""
    import deepspeed
    from deepspeed.runtime.config import DeepSpeedConfigError

    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.optimizer.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    width = getattr(model.student.config, "hidden_size", None) or head_width(model.student)
    try:
        return deepspeed.initialize(
            model=model,
            model_parameters=cast(Any, [group for group in groups if group["params"]]),
            config=settings.for_deepspeed(world_size, universal=universal, width=width),
        )[0]
    except ValidationError as error:
        raise _refused(error) from None
    except (DeepSpeedConfigError, ValueError, AssertionError) as error:
        raise ConfigError(f"DeepSpeed refuses its settings: {one_line(error)}") from None


def _refused(error: ValidationError) -> ConfigError:
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    return ConfigError(f"DeepSpeed refuses {key} = {fault.get('input')!r}: {fault['msg']}")


def settings_of_groups(engine: Any) -> list[dict[str, Any]]:
    """The optimizer's parameter groups without their parameters."""
    return [{k: v for k, v in group.items() if k != "params"} for group in engine.optimizer.param_groups]
