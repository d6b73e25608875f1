"""`kdcache export RUN --out DIR`: the student as a checkpoint of a run has it, in one process without a launcher.

The float32 master weights are put together from the parts that the ranks saved: those of DeepSpeed's zero_to_fp32 at
stages 1 to 3, the model's own at stage 0. Everything else is as the run itself would write it (export.py): the run's
settings say from what the student was made and which cache it learnt from, and both have to be there with the
contents that the checkpoint was made with. The peak is twice the whole model in float32 on this host.
"""

import contextlib
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from kdcache.config.file import config_of
from kdcache.errors import ConfigError, TrainError, one_line
from kdcache.launcher import World
from kdcache.owned.folder import Owner, abandon, check_output, claim, read_owner, scratch
from kdcache.owned.lock import hold
from kdcache.owned.model import move_into
from kdcache.store.cache import open_cache
from kdcache.stream.mixture import Mixture
from kdcache.students.making import make_student
from kdcache.train.checkpoint import Checkpoints, Saved
from kdcache.train.export import STUDENT, Told, write_student
from kdcache.train.pinned import CHANGES, check_unchanged
from kdcache.train.plan import plan
from kdcache.train.settings import CHANGEABLE, TrainConfig
from kdcache.train.unpickling import only_weights

__all__ = ["export_step"]


def export_step(
    folder: Path, target: Path, *, step: int | None = None, overrides: Sequence[str] = (), force: bool = False
) -> tuple[Path, int]:
    """Write the student of a checkpoint.

    Args:
        folder: Of the run.
        target: A new or empty folder, or one with a student that kdcache wrote.
        step: Whose checkpoint is taken; by default the newest whole one.
        overrides: Changes of the run's settings, such as "cache=elsewhere/cache" where the cache was moved.
        force: Take the target over, whoever has it.

    Returns:
        The target and the step.

    Raises:
        ConfigError: The folder is no run, its settings do not fit the checkpoint, or the target is not ours.
        TrainError: There is no such checkpoint.
    """
    run = plan(replace_output(run_settings(folder, overrides), folder))
    check_output(target, "student", setting="--out", inputs={"RUN": [folder]}, force=force)
    checkpoints = Checkpoints(folder, run.checkpoint, World())
    saved = checkpoints.latest() if step is None else checkpoints.at(step)
    if saved is None:
        raise TrainError(f"{folder} has no checkpoint yet, expected one to export")
    mixture = Mixture([(open_cache(path), weight) for path, weight in run.caches])
    check_unchanged(saved.settings, run.pinned_with(mixture), folder, CHANGEABLE)
    student = make_student(run.student, mixture.caches[0], run.seed)
    weights = {
        name.removeprefix(STUDENT): weight
        for name, weight in master_weights(checkpoints.folder, saved).items()
        if name.startswith(STUDENT)
    }
    told = Told(saved.step, changes=saved.settings.get(CHANGES, []))
    held = hold(target, "export", force=force)
    made = scratch(target, "student")
    try:
        claim(target, "student", setting="--out", inputs={"RUN": [folder]}, force=force)
        shutil.rmtree(made, ignore_errors=True)
        write_student(made, run, mixture, student, weights, told)
        move_into(made, target, Owner("student", config=run.settings))
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        held.release()
        abandon(target)
        raise
    held.release()
    return target, saved.step


def run_settings(folder: Path, overrides: Sequence[str]) -> TrainConfig:
    """The settings that a run was begun with. Raises ConfigError for a folder that holds none."""
    owner = read_owner(folder)
    if owner is None or owner.kind != "run" or not isinstance(owner.config, Mapping):
        raise ConfigError(f"got {folder}, which holds no training run, expected the output of kdcache train")
    return config_of(TrainConfig, dict(owner.config), str(folder), overrides)


def replace_output(config: TrainConfig, folder: Path) -> TrainConfig:
    """A run may have been moved."""
    return config.model_copy(update={"output": str(folder)})


def master_weights(folder: Path, saved: Saved) -> dict[str, Tensor]:
    """Name -> float32 weight, of every parameter that was trained, from a checkpoint that has been checked.

    Raises TrainError for one that cannot be put together.
    """
    import torch
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    place = folder / saved.name
    try:
        with only_weights(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            if saved.settings.get("deepspeed.zero_optimization.stage", 0) == 0:
                state = torch.load(place / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=True)
                found = state["module"]
            else:
                found = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=saved.name)
    except Exception as error:  # a dozen classes, by which file is damaged and where
        raise TrainError(
            f"the weights of {place} cannot be put together: {type(error).__name__}: {one_line(error, 200)}"
        ) from None
    return {name: weight.float() for name, weight in found.items()}
