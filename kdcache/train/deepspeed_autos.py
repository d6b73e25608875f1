"""What other trainers leave open in a DeepSpeed file: "auto" values and offloading to "none".

Accelerate and the Trainer of transformers fill "auto" in from their own arguments; DeepSpeed itself drops it, and its
defaults are float32. Here each is answered from the training config, from the student's width, or refused by name:

  batch sizes, clipping, an AdamW or a warm-up whose parameters       the training config's
  are all "auto"
  bf16.enabled, fp16.enabled                                          student.dtype, where that is half precision
  reduce_bucket_size, stage3_prefetch_bucket_size,                    width², 0.9 width² and 10 width, as transformers
  stage3_param_persistence_threshold                                  has them
  anything else                                                       refused
"""

from collections.abc import Callable, Iterator
from typing import Any

from kdcache.errors import ConfigError

__all__ = ["answered", "is_left_open", "with_sizes", "without_idle_offloading"]

AUTO = "auto"
HALF = {"bfloat16": "bf16", "float16": "fp16"}
SIZES: dict[str, Callable[[int], int]] = {
    "reduce_bucket_size": lambda width: width * width,
    "stage3_prefetch_bucket_size": lambda width: int(0.9 * width * width),
    "stage3_param_persistence_threshold": lambda width: 10 * width,
}
"""Keys of zero_optimization by the student's hidden width."""
OPEN_TYPES = {"optimizer": ("AdamW",), "scheduler": ("WarmupLR", "WarmupDecayLR")}
"""What files for the Trainer of transformers name, with parameters that are all "auto"."""
OFFLOADING = ("offload_optimizer", "offload_param")


def is_left_open(key: str, value: Any) -> bool:
    """Whether the value of a key that the training config owns is left to it, or decides nothing."""
    if value == AUTO or key == "steps_per_print":
        return True
    if key not in OPEN_TYPES or not isinstance(value, dict) or value.keys() - {"type", "params"}:
        return False
    params = value.get("params", {})
    return value.get("type") in OPEN_TYPES[key] and isinstance(params, dict) and all(v == AUTO for v in params.values())


def answered(settings: dict[str, Any], student_dtype: str, where: str) -> dict[str, Any]:
    """Settings without "auto", but for the sizes that wait for the student's width.

    Raises ConfigError for an "auto" that nothing answers, by its dotted name.
    """
    settings = _with_precision(settings, student_dtype, where)
    waiting = {f"zero_optimization.{key}" for key in SIZES}
    for name in _autos(settings):
        if name not in waiting:
            raise ConfigError(
                f'got {name} "auto" in {where}, expected a value: no setting of kdcache answers it; write one, or '
                "remove the key for DeepSpeed's default"
            )
    return settings


def with_sizes(settings: dict[str, Any], width: int | None) -> dict[str, Any]:
    """The sizes that were left open, for a student of this hidden width."""
    zero = settings.get("zero_optimization", {})
    if width is None or AUTO not in zero.values():
        return settings
    filled = {key: SIZES[key](width) if value == AUTO else value for key, value in zero.items()}
    return {**settings, "zero_optimization": filled}


def without_idle_offloading(zero: dict[str, Any]) -> dict[str, Any]:
    """zero_optimization without the offloading whose device is "none" or not named: DeepSpeed takes both for none."""

    def idle(key: str, value: Any) -> bool:
        if key not in OFFLOADING:
            return False
        return value is None or (isinstance(value, dict) and value.get("device") in (None, "none"))

    return {key: value for key, value in zero.items() if not idle(key, value)}


def _with_precision(settings: dict[str, Any], student_dtype: str, where: str) -> dict[str, Any]:
    """bf16 and fp16 with `enabled` answered; never by float32, which nobody asked for."""
    given = {name: settings[name].get("enabled") for name in HALF.values() if name in settings}
    left_open = [name for name, enabled in given.items() if enabled == AUTO]
    if not left_open:
        return settings
    wanted = HALF.get(student_dtype)
    chosen = next((name for name, enabled in given.items() if enabled is True), None)
    if chosen is None:
        if wanted is None or given.get(wanted, AUTO) != AUTO:
            raise ConfigError(
                f'got {left_open[0]}.enabled "auto" in {where} and student.dtype {student_dtype}, expected true or '
                "false: write student.dtype: bfloat16 (or float16) to train in it, or a value in the DeepSpeed "
                "settings, where false trains in float32"
            )
        chosen = wanted
    decided = {name: {**settings[name], "enabled": False} for name in left_open}
    if chosen in left_open or chosen not in settings:
        decided[chosen] = {**settings.get(chosen, {}), "enabled": True}
    return {**settings, **decided}


def _autos(value: Any, name: str = "") -> Iterator[str]:
    """Dotted names of the values "auto", at any depth."""
    if value == AUTO:
        yield name
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from _autos(inner, f"{name}.{key}" if name else str(key))
