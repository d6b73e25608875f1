"""Which settings a resumed run may not change: all of them, but for the two lists here.

A run is what its config says, so every setting is pinned under its dotted name, also one that a later version brings.
What a setting names is pinned by content: the cache by its digest, those of a mixture by theirs, with their weights,
the student's folder by the digests of the files that are loaded from it, a module of the user's by the digest of its
source. So a folder that was moved, or fetched from the hub again, goes on as long as its contents are the same.

FREE may change between two starts of a run: none of it changes what a step is, beyond the rounding of sums in another
order. Steps may become more, and fewer as long as those were not reached yet. CHANGEABLE changes the result on
purpose: it takes `allow_change` in the settings, and each change is kept in the checkpoints, the log and the card.
"""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kdcache.errors import ConfigError
from kdcache.models.hub import PATTERNS
from kdcache.train.engine import MONITORS, EngineSettings
from kdcache.train.settings import TrainConfig

__all__ = ["CHANGES", "FREE", "check_unchanged", "files_of_student", "pinned_settings"]

FREE = (
    *("cache", "caches", "student.path", "student.revision", "module"),  # pinned by content
    *("output", "device", "eval", "log_every", "checkpoint", "export_modules", "allow_change", "hang_minutes"),
    *("steps", "epochs", "micro_batch", "loss_chunk", "stream.memory_gb"),
    *("student.attention_implementation", "student.gradient_checkpointing", "student.trust_remote_code"),
    *(f"deepspeed.{name}" for name in MONITORS),
    *("deepspeed.activation_checkpointing", "deepspeed.aio", "deepspeed.comms_logger", "deepspeed.compile"),
    *("deepspeed.dump_state", "deepspeed.flops_profiler", "deepspeed.memory_breakdown"),
    "deepspeed.wall_clock_breakdown",
    *(
        f"deepspeed.zero_optimization.{name}"
        for name in (
            *("allgather_bucket_size", "reduce_bucket_size", "contiguous_gradients", "overlap_comm", "pin_memory"),
            *("stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_param_persistence_threshold"),
            "stage3_prefetch_bucket_size",
        )
    ),
)
"""Settings, or sections of them, that may change whenever a run goes on."""
CHANGES = "changes"
"""What a checkpoint's pinned settings have beside them: the changes that were allowed."""


def pinned_settings(config: TrainConfig, engine: EngineSettings) -> dict[str, Any]:
    """Dotted key -> JSON value, of every setting but the free ones, and the source of a module of the user's.

    The digests of the cache and of the student's folder are to be added.
    """
    found = dict(_leaves(config))
    found.pop("deepspeed")
    found |= dict(_within(engine.own, "deepspeed"))
    pinned = {key: value for key, value in found.items() if not _is_free(key)}
    if config.module is not None:
        pinned["module"] = _source_digest(config.module)
    return pinned


def _leaves(section: BaseModel, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a section and of those inside it, by its dotted name."""
    values = section.model_dump(mode="json")
    for key in type(section).model_fields:
        inner = getattr(section, key)
        if isinstance(inner, BaseModel):
            yield from _leaves(inner, f"{name}{key}.")
        else:
            yield f"{name}{key}", values[key]


def _within(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _within(inner, f"{name}.{key}")
    else:
        yield name, value


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _source_digest(module: str) -> str:
    """sha256 of the source of an imported module; of a package, of all its Python files."""
    place = getattr(sys.modules.get(module), "__file__", None)
    if place is None:
        return "not known"
    path = Path(place)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    return _digest_of(path.parent, files)


def files_of_student(folder: Path) -> dict[str, str]:
    """sha256 of each file of a student's folder that loading it may read, at about 1 GB/s."""
    names = {path for pattern in (*PATTERNS, "*.safetensors", "*.py") for path in folder.glob(pattern)}
    return {f"student.path {path.name}": _digest_of(folder, [path]) for path in sorted(names) if path.is_file()}


def _digest_of(folder: Path, files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(folder)}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def check_unchanged(
    saved: dict[str, Any], now: dict[str, Any], output: str | Path, allowed: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Compare the pinned settings of a checkpoint with today's.

    Args:
        saved: Those of the checkpoint.
        now: Those of this start.
        output: The folder of the run, for the message.
        allowed: Settings that may differ.

    Returns:
        The changes that are allowed: {"key", "from", "to"}.

    Raises:
        ConfigError: Names the first setting that differs otherwise.
    """
    changes = []
    for key in sorted((saved.keys() | now.keys()) - {CHANGES}):
        if saved.get(key) == now.get(key):
            continue
        if key not in allowed:
            raise ConfigError(
                f"got {key} {_short(now.get(key))}, expected {_short(saved.get(key))} as in the checkpoints of "
                f"{output}; {_advice(key)}"
            )
        changes.append({"key": key, "from": saved.get(key), "to": now.get(key)})
    return changes


def _advice(key: str) -> str:
    from kdcache.train.settings import CHANGEABLE

    if key in CHANGEABLE:
        return f"go on with the old one, allow the change with -o allow_change=[{key}], or use another output"
    return "go on with the old setting, or start anew with another output"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
