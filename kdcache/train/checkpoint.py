"""Checkpoints: DeepSpeed's files, plus kdcache.json with the step, the loader's state and the pinned settings.

    OUTPUT/checkpoints/step-00000500/   written as step-00000500.partial by all ranks, then renamed by rank 0
    OUTPUT/checkpoints/latest           name of the newest, replaced last; a kill at any moment leaves the previous one

The same world size resumes bit for bit. Another one goes through DeepSpeed's universal checkpoints (rank 0 converts in
a process of its own, 3 s for a small model), which keeps the optimizer's moments; stage 0 needs no conversion. The
checkpoint folder must be shared by all nodes. Not for changing the ZeRO stage, which DeepSpeed converts only for some
pairs.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import OutOfMemoryError, Tensor

from kdcache.disk import Disk
from kdcache.errors import TrainError, one_line
from kdcache.launcher import World
from kdcache.progress import say
from kdcache.train.distributed import lost_a_peer, quiet_deepspeed
from kdcache.train.engine import settings_of_groups
from kdcache.train.settings import CheckpointConfig

__all__ = ["Checkpoints", "Saved"]

STATE = "kdcache.json"
LATEST = "latest"
PARTIAL = ".partial"
UNIVERSAL = "universal"
# torch.save on a full disk: "… file write failed" or "enforce fail at inline_container.cc … unexpected pos"
OF_FILES = ("file", "inline_container")


@dataclass(frozen=True)
class Saved:
    """What a checkpoint says of itself."""

    name: str
    step: int
    world_size: int
    loader: dict[str, Any]
    settings: dict[str, Any]


class Checkpoints:
    def __init__(self, output: Path, config: CheckpointConfig, world: World) -> None:
        self.folder, self.config, self.world = output / "checkpoints", config, world

    def latest(self) -> Saved | None:
        """The checkpoint to go on from, the same on all ranks."""
        found = None
        if self.world.first and (self.folder / LATEST).is_file():
            name = (self.folder / LATEST).read_text(encoding="utf-8", errors="replace").strip()
            found = self._read(name)
        found = self.world.from_first(found)
        return None if found is None else Saved(**found)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            state = json.loads((self.folder / name / STATE).read_text(encoding="utf-8"))
            return {key: state[key] for key in ("name", "step", "world_size", "loader", "settings")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(name, error) from None

    def _damaged(self, name: str, error: Exception) -> TrainError:
        words = one_line(error, 200)
        return TrainError(
            f"{self.folder / name} is damaged ({type(error).__name__}: {words}), expected a checkpoint; write the name "
            f"of another one into {self.folder / LATEST}, or start anew with another output"
        )

    def needs_conversion(self, saved: Saved | None, stage: int) -> bool:
        """Whether this world size needs a universal checkpoint at this ZeRO stage: an engine made to load one."""
        return saved is not None and saved.world_size != self.world.size and stage > 0

    def load(self, engine: Any, saved: Saved, *, convert: bool) -> None:
        groups = settings_of_groups(engine)
        folder, tag = self._convert(saved) if convert else self.folder, saved.name
        try:
            with quiet_deepspeed():
                path, _ = engine.load_checkpoint(str(folder), tag=tag, load_lr_scheduler_states=False)
        except Exception as error:  # a dozen classes, by which file is damaged and where
            if isinstance(error, OutOfMemoryError) or lost_a_peer(error):
                raise
            raise self._damaged(tag, error) from None
        if path is None:
            raise TrainError(f"{folder / tag} holds no DeepSpeed checkpoint, expected one of step {saved.step}")
        if convert:
            self._mend(engine, groups)
        self.world.barrier()
        if convert and self.world.first:
            shutil.rmtree(folder)

    def _mend(self, engine: Any, groups: list[dict[str, Any]]) -> None:
        """Loading a universal checkpoint of stage 3 leaves every group with the settings of the first, and all
        sub-groups with one step counter, which each update would then advance several times."""
        for group, settings in zip(engine.optimizer.param_groups, groups, strict=True):
            group.update(settings)
        for state in engine.optimizer.optimizer.state.values():
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].clone()

    def _convert(self, saved: Saved) -> Path:
        """Rank 0 makes a universal checkpoint, the others wait. Returns its parent folder."""
        folder = self.folder / UNIVERSAL
        fault = None
        if self.world.first:
            say(f"the checkpoint is of world size {saved.world_size}; converting it for {self.world.size}")
            shutil.rmtree(folder, ignore_errors=True)
            command = [
                *(sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"),
                *("--input_folder", str(self.folder / saved.name)),
                *("--output_folder", str(folder / saved.name)),
                *("--num_extract_workers", "1", "--num_merge_workers", "1"),
            ]
            environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                fault = f"{self.folder / saved.name} cannot be converted for {self.world.size} ranks: {last}"
        fault = self.world.from_first(fault)
        if fault is not None:
            raise TrainError(f"{fault}; run with {saved.world_size} ranks to go on")
        return folder

    def save(self, engine: Any, step: int, loader: dict[str, Any], settings: dict[str, Any]) -> None:
        """A checkpoint after `step`; every rank calls it. Raises TrainError when it cannot be written."""
        name = f"step-{step:08d}"
        partial = self.folder / (name + PARTIAL)
        if self.world.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(f"*{PARTIAL}"):
                shutil.rmtree(left)
        self.world.barrier()
        try:
            engine.save_checkpoint(str(self.folder), tag=partial.name, save_latest=False)
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(sign in str(error).lower() for sign in OF_FILES):
                raise
            raise TrainError(
                f"the checkpoint of step {step} cannot be written to {self.folder}: {one_line(error)}; "
                "the previous one is kept; free some space and run the same command again"
            ) from None
        self.world.barrier()
        if self.world.first:
            state = asdict(Saved(name, step, self.world.size, loader, settings))
            libraries = {library: version(library) for library in ("kdcache", "deepspeed", "torch")}
            (partial / STATE).write_text(json.dumps(state | {"libraries": libraries}, indent=1), encoding="utf-8")
            shutil.rmtree(self.folder / name, ignore_errors=True)
            partial.rename(self.folder / name)
            Disk(self.folder).write(LATEST, f"{name}\n".encode())
            self._drop_old()
        self.world.barrier()

    def _drop_old(self) -> None:
        """By age, not by step: a run that was set back to an earlier step keeps what it writes from there."""
        saved = [path for path in self.folder.glob("step-*") if not path.name.endswith(PARTIAL)]
        for path in sorted(saved, key=lambda path: path.stat().st_mtime_ns)[: -self.config.keep]:
            shutil.rmtree(path)
