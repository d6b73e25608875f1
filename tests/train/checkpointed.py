"""What the tests of test_checkpoint.py need a DeepSpeed engine for: python checkpointed.py ROOT STAGES EACH SCENARIO…

One rank. EACH: every so-manieth operation is struck. Each scenario leaves counts and complaints in ROOT/SCENARIO.json.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from train.power import DISKS, Disk
from train.striking import ERRORS, operations, watching
from train.tiny import train_config, write_cache

from kdcache.errors import TrainError
from kdcache.launcher import World
from kdcache.students.collate import Collator
from kdcache.students.loss import with_loss
from kdcache.students.making import make_student
from kdcache.students.prefetch import Prefetcher
from kdcache.students.terms import loss_terms
from kdcache.train.checkpoint import Checkpoints, Saved
from kdcache.train.distributed import connect
from kdcache.train.engine import make_engine
from kdcache.train.leaving import Leaving
from kdcache.train.loop import Trainer
from kdcache.train.plan import plan
from kdcache.train.run import open_caches
from kdcache.train.sealed import read_seal, seal
from kdcache.train.settings import CheckpointConfig

LOADER: dict[str, Any] = {"seed": 0, "epoch": 0, "samples_seen": 8}
SETTINGS: dict[str, Any] = {"seed": 0}


class Run:
    """An engine that takes steps, and its checkpoints after steps 1 and 2."""

    def __init__(self, root: Path, stage: int) -> None:
        self.output = root / f"stage{stage}"
        self.run = plan(train_config(root / "cache", self.output, stage=stage, steps=40))
        mixture, _ = open_caches(self.run)
        self.cache = mixture.caches[0]
        self.engine = self.make_engine()
        student = self.engine.module.student
        self.trainer = Trainer(
            self.engine,
            self.run.pace(mixture),
            loss_terms(self.run.terms, self.cache),
            World(),
            device="cpu",
            step=0,
            leaving=Leaving(self.run.checkpoint, World()),
        )
        self.loader = self.run.batches.loader(mixture, World())
        with Prefetcher(self.loader, Collator(student, self.cache), "cpu") as feed:
            for step in (1, 2):
                self.trainer.take_step(feed)
                self.save(step)
            self.trainer.take_step(feed)

    def make_engine(self, *, universal: bool = False) -> Any:
        student = make_student(self.run.student, self.cache, 0)
        return make_engine(with_loss(student, chunk=100), self.run.engine, 1, universal=universal)

    def checkpoints(self, output: Path | None = None) -> Checkpoints:
        return Checkpoints(output or self.output, CheckpointConfig(keep=2), World())

    def save(self, step: int) -> None:
        self.checkpoints().save(self.engine, step, LOADER, SETTINGS)

    def set_back(self, aside: Path) -> None:
        shutil.rmtree(self.output)
        shutil.copytree(aside, self.output)


def faults(run: Run, each: int, stage: int) -> dict[str, Any]:
    """ENOSPC and EIO at operations of saving step 3, with steps 1 and 2 there."""
    aside = run.output.with_name("aside")
    shutil.copytree(run.output, aside)
    with operations(run.output) as whole:
        run.save(3)
    placed = whole.names.index("rename step-00000003")
    told: dict[str, Any] = {"operations": whole.names, "struck": 0, "raised": 0, "complaints": []}
    for name in ERRORS:
        for at in range(stage % each, len(whole.names), each):
            run.set_back(aside)
            told["struck"] += 1
            where = f"stage {stage}, {name} at {at} ({whole.names[at]})"
            try:
                with operations(run.output, name, at):
                    run.save(3)
                expected = {(2, 3), (1, 2, 3)}  # an old one that cannot be deleted is no reason to stop
            except TrainError as error:
                told["raised"] += 1
                expected = {(1, 2), (2, 3), (1, 2, 3)} if at > placed else {(1, 2)}
                if "cannot be written" not in str(error) or os.strerror(ERRORS[name]) not in str(error):
                    told["complaints"].append(f"{where} said {error}")
            except BaseException as error:
                told["complaints"].append(f"{where} raised {error!r}")
                continue
            there = tuple(run.checkpoints().steps())
            if there not in expected:
                told["complaints"].append(f"{where} left {there}")
            try:
                for step in there:
                    run.checkpoints().at(step)
                run.save(3)
                if run.checkpoints().latest() != run.checkpoints().at(3) or run.checkpoints().steps() != [2, 3]:
                    told["complaints"].append(f"{where}: saving again left {run.checkpoints().steps()}")
            except TrainError as error:
                told["complaints"].append(f"{where}: then {error}")
    run.set_back(aside)
    shutil.rmtree(aside)
    return told


def power(run: Run, each: int, stage: int) -> dict[str, Any]:
    """The power goes at operations of saving step 3, and of saving it over one that is there."""
    told: dict[str, Any] = {"cuts": 0, "complaints": []}
    target = run.output.with_name("after")
    aside = run.output.with_name("aside")
    shutil.copytree(run.output, aside)
    for over in (False, True):
        run.set_back(aside)
        if over:
            run.save(3)
            Path(run.output, "checkpoints", "latest").write_text("step-00000002\n")
        disk, count = Disk(run.output.resolve()), 0

        def cut(what: str, at_least: int, disk: Disk = disk) -> None:
            for kind in DISKS:
                told["cuts"] += 1
                disk.cut(kind, target)
                try:
                    checkpoints = run.checkpoints(target)
                    found = checkpoints.latest(sweep=True)
                    if found is None or found.step < at_least:
                        told["complaints"].append(f"stage {stage}, {kind}, before {what}: {found}")
                except TrainError as error:
                    told["complaints"].append(f"stage {stage}, {kind}, before {what}: {error}")
                shutil.rmtree(target)

        def watcher(what: str, path: Path, disk: Disk = disk) -> None:
            nonlocal count
            count += 1
            if what != "fsynced" and count % each == stage % each:
                cut(f"{what} {path.name}", 2)
            disk.follow(what, path)

        with watching(run.output.resolve(), watcher):
            run.save(3)
        cut("the end", 3)
    run.set_back(aside)
    shutil.rmtree(aside)
    return told


class Evil:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def pickles(run: Run, each: int, stage: int) -> dict[str, Any]:
    """Every file of a checkpoint in turn runs a command when it is unpickled; the folder is sealed anew."""
    told: dict[str, Any] = {"files": 0, "complaints": [], "said": []}
    marker, here = run.output.with_name("marker"), run.output / "checkpoints" / "step-00000002"
    for converted in (False, True) if stage else (False,):
        engine = run.make_engine(universal=converted)
        for name in sorted(path.name for path in here.glob("*.pt")):
            whole, (state, _) = (here / name).read_bytes(), read_seal(here)
            inside = torch.load(here / name, weights_only=False)
            whole_file, deep = Evil(marker), inside | {"module": Evil(marker)}
            for evil in (whole_file, deep, inside | {"optimizer_state_dict": Evil(marker)})[:: 2 if converted else 1]:
                torch.save(evil, here / name, _use_new_zipfile_serialization=not isinstance(evil, Evil))
                state.pop("files", None)
                seal(here, state | {"world_size": 2 if converted else 1}, {})
                told["files"] += 1
                try:
                    saved = run.checkpoints().latest()
                    assert isinstance(saved, Saved)
                    run.checkpoints().load(engine, saved, convert=converted)
                    told["complaints"].append(f"stage {stage}, {name}, converted {converted}: loaded")
                except TrainError as error:
                    told["said"].append(str(error))
                if marker.exists():
                    told["complaints"].append(f"stage {stage}, {name}, converted {converted}: ran")
                    marker.unlink()
            (here / name).write_bytes(whole)
            seal(here, state | {"world_size": 1}, {})
        run.checkpoints().load(run.make_engine(), run.checkpoints().at(2), convert=False)
    return told


SCENARIOS: dict[str, Callable[[Run, int, int], dict[str, Any]]] = {f.__name__: f for f in (faults, power, pickles)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    root, stages, each = Path(sys.argv[1]).resolve(), sys.argv[2], int(sys.argv[3])
    if not (root / "cache").exists():
        write_cache(root / "cache")
    connect(World(), "cpu")
    for stage in map(int, stages):
        run = Run(root, stage)
        for name in sys.argv[4:]:
            told = SCENARIOS[name](run, each, stage)
            (root / f"{name}-{stage}.json").write_text(json.dumps(told, indent=1))
