"""Checkpoints: DeepSpeed's files in a sealed folder, with the step, the loader's state and the pinned settings.

Saving: every rank writes its files under .kdcache/, digests them meanwhile and brings them to the disk; rank 0 seals
the folder with all digests, renames it, renames `latest`, and only then drops older ones. Loading: every rank checks
its share of the bytes first. A damaged checkpoint is passed over for the one before, with a sentence.

The same world size resumes bit for bit. Another one goes through DeepSpeed's universal checkpoints (universal.py),
which keep the optimizer's moments; stage 0 needs no conversion. The folder must be shared by all nodes. Not for
changing the ZeRO stage, which DeepSpeed converts only for some pairs.

Loading runs no code that a file brings (unpickling.py). Still take no checkpoint from strangers: what is trained on
from one is theirs, and a digest in a folder is no signature.
"""

import json
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveInt, TypeAdapter, ValidationError
from torch import OutOfMemoryError, Tensor

from kdcache.errors import TrainError, one_line
from kdcache.launcher import World, lost_a_peer
from kdcache.owned.folder import scratch
from kdcache.progress import say
from kdcache.train.checkpoint_folder import LATEST, CheckpointFolder, name_of, to_drop
from kdcache.train.distributed import quiet_deepspeed
from kdcache.train.engine import settings_of_groups
from kdcache.train.sealed import FileSeal, Unsealed, faults, read_seal, seal, share_of
from kdcache.train.settings import CheckpointConfig
from kdcache.train.universal import HOLDS_CODE
from kdcache.train.universal import convert as convert_to_universal
from kdcache.train.unpickling import only_weights, what_it_would_run

__all__ = ["Checkpoints", "Saved"]

# torch.save on a full disk: "… file write failed" or "enforce fail at inline_container.cc … unexpected pos"
OF_FILES = ("file", "inline_container")


@dataclass(frozen=True)
class Saved:
    """What a checkpoint says of itself."""

    name: str
    step: NonNegativeInt
    world_size: PositiveInt
    loader: dict[str, Any]
    settings: dict[str, Any]


class Checkpoints:
    """Those of a run. Every rank calls each method but `steps`."""

    def __init__(self, output: Path, config: CheckpointConfig, world: World) -> None:
        self.folder, self.config, self.world = output / "checkpoints", config, world
        self.scratch = scratch(output, "universal")
        self.files = CheckpointFolder(self.folder)
        self.damaged: set[int] = set()

    def steps(self) -> list[int]:
        """The steps of the checkpoints that there are, in order; they are not checked."""
        return self.files.steps()

    def at(self, step: int) -> Saved:
        """The checkpoint after `step`, whole. Raises TrainError."""
        found = self._look_at(step)
        if isinstance(found, Saved):
            return found
        there = ", ".join(map(str, self._on_first(self.steps))) or "none"
        raise TrainError(
            f"{self.folder / name_of(step)} is damaged or not there ({found}), expected a checkpoint of step {step}; "
            f"there are those of steps {there}"
        )

    def latest(self, *, sweep: bool = False) -> Saved | None:
        """The checkpoint to go on from, the same on all ranks; None where there is none yet.

        Damaged ones are passed over, with a sentence. sweep: delete what a kill left half done; only for who trains.
        Raises TrainError where there are checkpoints and none is whole.
        """
        if sweep:
            self._on_first(self.files.sweep)
            self._on_first(lambda: shutil.rmtree(self.scratch, ignore_errors=True))
        told, steps = self._on_first(lambda: (self.files.latest(), self.files.candidates()))
        passed: list[str] = []
        for step in steps:
            found = self._look_at(step)
            if isinstance(found, Saved):
                self._tell(told, found, passed)
                return found
            self.damaged.add(step)
            passed.append(f"{name_of(step)} is damaged ({found})")
        if told is None and not passed:
            return None
        wrong = "; ".join(passed) or f"{LATEST} names {told[:40]!r} and no checkpoint is there"
        raise TrainError(
            f"{self.folder} has no checkpoint to go on from: {wrong}; expected a whole one: copy one back, "
            "start anew with another output, or delete that folder to begin at step 0"
        )

    def _tell(self, told: str | None, found: Saved, passed: Sequence[str]) -> None:
        if passed:
            say(f"{'; '.join(passed)}; taking {found.name} instead, which is whole, in {self.folder}")
        elif told is None:
            say(f"{self.folder / LATEST} is lost; taking {found.name}, the newest that is there")
        elif told != found.name:
            say(f"{self.folder / LATEST} names {told[:40]!r}, which is not there; taking {found.name}, the newest")

    def _look_at(self, step: int) -> Saved | str:
        """A checkpoint of which every byte has been checked, each rank's share by that rank; else what is wrong."""

        def read() -> tuple[dict[str, Any], dict[str, dict[str, Any]]] | str:
            try:
                content, files = read_seal(self.folder / name_of(step))
                saved = _saved(content)
            except Unsealed as error:
                return str(error)
            if (saved.name, saved.step) != (name_of(step), step):
                return f"it says that it is {saved.name} of step {saved.step}"
            return asdict(saved), {name: entry.model_dump() for name, entry in files.items()}

        told = self._on_first(read)
        if isinstance(told, str):
            return told
        files = {name: FileSeal(**entry) for name, entry in told[1].items()}
        return self._faults(self.folder / name_of(step), files) or Saved(**told[0])

    def _faults(self, folder: Path, files: dict[str, FileSeal]) -> str:
        mine = faults(folder, files, share_of(files, self.world.rank, self.world.size))
        every = [words for found in self.world.all(mine) for words in found]
        return ", ".join(dict.fromkeys(every[:3]))

    def _ask_first(self, work: Callable[[], Any]) -> tuple[Any, str | None]:
        """What rank 0 finds, on all ranks, or its OSError in words."""
        found, fault = None, None
        if self.world.first:
            try:
                found = work()
            except OSError as error:
                fault = one_line(error)
        found, fault = self.world.from_first((found, fault))
        return found, fault

    def _on_first(self, work: Callable[[], Any]) -> Any:
        """What rank 0 finds, on all ranks; its OSError is a TrainError on all of them."""
        found, fault = self._ask_first(work)
        if fault is not None:
            raise TrainError(f"the checkpoints in {self.folder} cannot be read or written: {fault}")
        return found

    def needs_conversion(self, saved: Saved | None, stage: int) -> bool:
        """Whether this world size needs a universal checkpoint at this ZeRO stage: an engine made to load one."""
        return saved is not None and saved.world_size != self.world.size and stage > 0

    def load(self, engine: Any, saved: Saved, *, convert: bool) -> None:
        """Give the engine the state of a checkpoint that `latest` or `at` has checked. Raises TrainError."""
        from kdcache.train.checkpoint_engine import with_our_files

        groups = settings_of_groups(engine)
        folder = self._convert(saved) if convert else self.folder
        try:
            with quiet_deepspeed(), only_weights(), with_our_files(engine):
                path, _ = engine.load_checkpoint(str(folder), tag=saved.name, load_lr_scheduler_states=False)
        except Exception as error:  # a dozen classes, by which file is damaged and where
            if isinstance(error, OutOfMemoryError) or lost_a_peer(error):
                raise
            raise self._refused(saved.name, error) from None
        if path is None:
            raise TrainError(f"{folder / saved.name} holds no DeepSpeed checkpoint, expected one of step {saved.step}")
        if convert:
            self._mend(engine, groups)
        self.world.barrier()
        if convert:
            self._on_first(lambda: shutil.rmtree(self.scratch, ignore_errors=True))

    def _refused(self, name: str, error: Exception) -> TrainError:
        if ran := what_it_would_run(str(error)):
            return TrainError(
                f"{self.folder / name} holds code ({ran}), expected tensors and plain values as kdcache writes them; "
                "nothing of it was run; do not use checkpoints from strangers"
            )
        return TrainError(
            f"{self.folder / name} is damaged ({type(error).__name__}: {one_line(error, 200)}), expected a checkpoint; "
            f"write the name of another one into {self.folder / LATEST}, or start anew with another output"
        )

    def _mend(self, engine: Any, groups: list[dict[str, Any]]) -> None:
        """Loading a universal checkpoint of stage 3 leaves every group with the settings of the first, and all
        sub-groups with one step counter, which each update would then advance several times."""
        for group, settings in zip(engine.optimizer.param_groups, groups, strict=True):
            group.update(settings)
        for state in engine.optimizer.optimizer.state.values():
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].clone()

    def _convert(self, saved: Saved) -> Path:
        """Rank 0 makes a universal checkpoint, the others wait; all check it. Returns its parent folder."""
        say(f"the checkpoint is of world size {saved.world_size}; converting it for {self.world.size}")
        self._on_first(lambda: shutil.rmtree(self.scratch, ignore_errors=True))
        # its own, since a conversion whose rank was killed may still be writing
        parent = self.scratch / self._on_first(lambda: uuid.uuid4().hex[:8])
        target = parent / saved.name
        fault = self._on_first(lambda: convert_to_universal(self.folder / saved.name, target))
        if fault is None:
            try:
                fault = self._faults(target, read_seal(target)[1])
            except Unsealed as error:
                fault = str(error)
            fault = next((words for words in self.world.all(fault) if words), None)
        if fault is not None:
            stranger = fault.startswith(HOLDS_CODE)
            advice = (
                "do not use checkpoints from strangers" if stranger else f"run with {saved.world_size} ranks to go on"
            )
            raise TrainError(
                f"{self.folder / saved.name} cannot be converted for {self.world.size} ranks: {fault}; {advice}"
            )
        return parent

    def save(self, engine: Any, step: int, loader: dict[str, Any], settings: dict[str, Any]) -> None:
        """A checkpoint after `step`. Raises TrainError when it cannot be written; those before it are kept then."""
        from kdcache.train.checkpoint_engine import with_our_files

        name = name_of(step)
        _, fault = self._ask_first(self.files.begin)
        if fault is None:
            try:
                with with_our_files(engine) as ours:
                    engine.save_checkpoint(str(self.files.saving), tag=name, save_latest=False)
            except (OSError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and not any(sign in str(error).lower() for sign in OF_FILES):
                    raise
                raise self._not_written(step, one_line(error)) from None
            here = self.files.saving / name
            seals = {path.relative_to(here).as_posix(): entry.model_dump() for path, entry in ours.seals().items()}
            every = self.world.all((ours.fault, seals))
            fault = next((words for words, _ in every if words), None)
        if fault is None:
            known = {name: FileSeal(**entry) for _, seals in every for name, entry in seals.items()}
            saved = Saved(name, step, self.world.size, loader, settings)
            _, fault = self._ask_first(lambda: self._stand(saved, known))
        if fault is not None:
            if self.world.first:
                shutil.rmtree(self.files.saving, ignore_errors=True)
            raise self._not_written(step, fault)
        self.damaged.discard(step)

    def _stand(self, saved: Saved, known: dict[str, FileSeal]) -> None:
        """Seal what all ranks wrote, put it in its place, and then drop older ones."""
        libraries = {library: version(library) for library in ("kdcache", "deepspeed", "torch")}
        seal(self.files.saving / saved.name, asdict(saved) | {"libraries": libraries}, known)
        if aside := self.files.put_in_place(saved.step):
            say(f"{self.folder / saved.name} was there and is no checkpoint of kdcache; moved it to {aside.name}")
        old = to_drop(self.files.steps(), saved.step, self.config.keep, self.damaged - {saved.step})
        try:
            self.files.drop(old)
        except OSError as error:
            say(f"old checkpoints in {self.folder} cannot be deleted: {one_line(error)}")

    def _not_written(self, step: int, fault: str) -> TrainError:
        return TrainError(
            f"the checkpoint of step {step} cannot be written to {self.folder}: {fault}; "
            "those before it are kept; free some space and run the same command again"
        )


def _saved(content: dict[str, Any]) -> Saved:
    """Raises Unsealed for a state that no run wrote."""
    try:
        told = json.dumps({key: content.get(key) for key in Saved.__annotations__})
        return TypeAdapter(Saved).validate_json(told, strict=True)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise Unsealed(f"its {where} is not what a run writes") from None
