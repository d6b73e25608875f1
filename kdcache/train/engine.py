"""DeepSpeed's settings and its engine.

The user's JSON says how: ZeRO stage, precision, buckets, offload. What a run means comes from the training config
alone (batch sizes, optimizer, schedule, clipping, monitor), so those keys are refused in the JSON. ZeRO stages 0 to 3;
half precision needs stage 1 or more (at stage 0 bf16 keeps no float32 master weights and diverges).

Every rank makes the whole student on its CPU before the engine splits it: a student must fit in the host's memory
once a rank. AdamW is torch's on every device (no compiler needed), DeepSpeed's own where the optimizer is offloaded.
Weight decay is for matrices only; biases and norm scales have none.
"""

import difflib
import json
from pathlib import Path
from typing import Any, cast

from torch import nn

from kdcache.config import TrainConfig
from kdcache.errors import ConfigError

__all__ = ["deepspeed_settings", "make_engine", "micro_batches", "read_deepspeed", "settings_of_groups", "zero_stage"]

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
MONITORS = ("tensorboard", "wandb", "csv_monitor", "comet")
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


def read_deepspeed(source: str | dict[str, Any]) -> dict[str, Any]:
    """The user's DeepSpeed settings, checked. source: path of a JSON file, or the settings themselves.

    Keys that the training config owns may be there with the value "auto", as files written for others have them.
    Raises ConfigError: no such file, not JSON, an unknown key, a key that the training config owns, half precision at
    stage 0.
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
    kept = {key: value for key, value in settings.items() if not (key in OWNED and value == "auto")}
    for key in kept:
        _check_key(key, where)
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
        nearest = difflib.get_close_matches(key, (*PASSED_ON, *MONITORS), n=1, cutoff=0.0)[0]
        raise ConfigError(f"unknown key {key} in {where}; did you mean {nearest}?")


def zero_stage(settings: dict[str, Any]) -> Any:
    return settings.get("zero_optimization", {}).get("stage", 0)


def half_precision(settings: dict[str, Any]) -> str | None:
    """ "bf16", "fp16" or None."""
    return next((name for name in ("bf16", "fp16") if settings.get(name, {}).get("enabled")), None)


def micro_batches(config: TrainConfig, world_size: int) -> int:
    """Micro-batches of a rank in a step, its gradient accumulation."""
    return max(1, config.global_batch // world_size // config.micro_batch)


def deepspeed_settings(config: TrainConfig, world_size: int, *, universal: bool = False) -> dict[str, Any]:
    """All of DeepSpeed's settings. universal: the engine will load a universal checkpoint."""
    own = read_deepspeed(config.deepspeed)
    accumulation = micro_batches(config, world_size)
    optimizer = config.optimizer
    offloaded = "offload_optimizer" in own.get("zero_optimization", {})
    return {
        **{key: value for key, value in own.items() if key not in MONITORS},
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": config.micro_batch * accumulation * world_size,
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


def monitor_settings(config: TrainConfig) -> dict[str, Any]:
    """TensorBoard in OUTPUT/tensorboard, and whatever monitors the user's JSON has."""
    own = read_deepspeed(config.deepspeed)
    tensorboard = {"enabled": True, "output_path": config.output, "job_name": "tensorboard"}
    return {"tensorboard": tensorboard, **{key: own[key] for key in MONITORS if key in own}}


def make_monitor(config: TrainConfig) -> Any:
    """DeepSpeed's monitor, apart from the engine: the engine would log its scaled loss. Rank 0 writes."""
    from deepspeed.monitor.config import get_monitor_config
    from deepspeed.monitor.monitor import MonitorMaster

    return MonitorMaster(get_monitor_config(monitor_settings(config)))


def make_engine(model: nn.Module, config: TrainConfig, world_size: int, *, universal: bool = False) -> Any:
    """A DeepSpeed engine that trains all parameters of the model. Raises ConfigError for settings it refuses."""
    import deepspeed
    from deepspeed.runtime.config import DeepSpeedConfigError
    from pydantic import ValidationError

    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.optimizer.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    settings = deepspeed_settings(config, world_size, universal=universal)
    try:
        return deepspeed.initialize(
            model=model,
            model_parameters=cast(Any, [group for group in groups if group["params"]]),
            config=settings,
        )[0]
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise ConfigError(f"DeepSpeed refuses {key} = {fault.get('input')!r}: {fault['msg']}") from None
    except (DeepSpeedConfigError, ValueError, AssertionError) as error:
        raise ConfigError(f"DeepSpeed refuses its settings: {' '.join(str(error).split())}") from None


def settings_of_groups(engine: Any) -> list[dict[str, Any]]:
    """The optimizer's parameter groups without their parameters."""
    return [{k: v for k, v in group.items() if k != "params"} for group in engine.optimizer.param_groups]
