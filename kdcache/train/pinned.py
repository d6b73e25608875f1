"""Which settings a resumed run may not change: those that decide the student, the batches or the update of a step.

Free to change: steps or epochs, micro_batch, loss_chunk, log_every, checkpoint, eval, stream.memory_gb, device, paths.
"""

from pathlib import Path
from typing import Any

from kdcache.errors import ConfigError
from kdcache.train.engine import EngineSettings
from kdcache.train.settings import TrainConfig

__all__ = ["check_unchanged", "pinned_settings"]


def pinned_settings(config: TrainConfig, engine: EngineSettings) -> dict[str, Any]:
    """Dotted key -> JSON value; the digest of the cache is to be added."""
    settings = config.model_dump(mode="json")
    for free in ("path", "gradient_checkpointing", "attention_implementation", "trust_remote_code"):
        settings["student"].pop(free)
    return {
        "seed": config.seed,
        "global_batch": config.global_batch,
        "terms": settings["terms"],
        "stream.lanes": config.stream.lanes,
        "stream.window": config.stream.window,
        "deepspeed.zero_optimization.stage": engine.stage,
        "deepspeed precision": engine.half_precision or "fp32",
        **{f"student.{key}": value for key, value in settings["student"].items()},
        **{f"optimizer.{key}": value for key, value in settings["optimizer"].items()},
        **{f"schedule.{key}": value for key, value in settings["schedule"].items()},
    }


def check_unchanged(saved: dict[str, Any], now: dict[str, Any], output: str | Path) -> None:
    """Raises ConfigError naming the first setting that differs from the checkpoint's."""
    for key in sorted(saved.keys() | now.keys()):
        if saved.get(key) != now.get(key):
            raise ConfigError(
                f"got {key} {_short(now.get(key))}, expected {_short(saved.get(key))} as in the checkpoints of "
                f"{output}; go on with the old setting, or start anew with another output"
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
