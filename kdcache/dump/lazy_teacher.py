"""The teacher of a dump, loaded when it is first needed: a dump with nothing left to do never loads it."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from kdcache.dump.engines.engine import Engine, Wanted
from kdcache.dump.engines.model_engine import ATTENTION
from kdcache.dump.material import Material
from kdcache.dump.settings import TeacherConfig
from kdcache.dump.teacher import own_devices
from kdcache.dump.trial import begun_compute
from kdcache.launcher import World
from kdcache.progress import say

__all__ = ["LazyTeacher", "begun_ways", "devices_of", "load_engine", "with_attention"]


def devices_of(teacher: TeacherConfig | str, compute: Any, world: World) -> list[torch.device]:
    """This rank's own; a CPU where there is no teacher. Raises ConfigError for devices that are not there."""
    return [torch.device("cpu")] if isinstance(teacher, str) else own_devices(teacher, compute, world)


class LazyTeacher:
    """`ways` is what the header pins, `ready()` the teacher itself; None of a cache of labels."""

    def __init__(self, material: Material, devices: list[torch.device], world: World) -> None:
        self.material, self.devices, self.world = material, devices, world

    @cached_property
    def ways(self) -> dict[str, Any]:
        """How it is run, as a begun cache says, or else as trying it out finds."""
        teacher = self.material.config.teacher
        if self.material.folder is None or teacher == "none":
            return {}
        if self._begun:
            return begun_ways(self._begun, teacher)
        assert self._engine is not None
        self._engine.try_out(self._wanted(teacher), self.material.longest)
        return self._engine.ways

    def ready(self) -> Engine | None:
        """Loaded, and run as the header says.

        Raises:
            TeacherError: Its files are no longer those that were digested, or it cannot be run so.
        """
        if self._engine is not None:
            self._engine.run_as(self.ways)
        return self._engine

    @cached_property
    def _begun(self) -> dict[str, Any] | None:
        return begun_compute(self.material.root)

    @cached_property
    def _engine(self) -> Engine | None:
        teacher = self.material.config.teacher
        if teacher == "none":
            return None
        loaded = load_engine(self._wanted(with_attention(teacher, self._begun or {})))
        if self.material.teacher_files is not None:
            self.material.teacher_files.check_unchanged()
            if self.world.replica is not None:
                self.world.replica.tell("compare", self.material.teacher_files.marks)
                self.world.replica.wait_for_others()
        return loaded

    def _wanted(self, teacher: TeacherConfig) -> Wanted:
        material = self.material
        return Wanted(
            teacher,
            material.config.compute,
            self.world,
            self.devices,
            material.asked,
            material.num_classes,
            material.config.record,
            material.fed_with,
            lambda: material.first_examples,
        )


def begun_ways(compute: Mapping[str, Any], teacher: TeacherConfig) -> dict[str, Any]:
    """`ways` of a begun cache, where the config does not ask for another one. compute: of its header."""
    pinned = {name: compute[name] for name in teacher.engine.pinned if name in compute}
    asked = teacher.attention_implementation
    return pinned | ({} if asked is None else {ATTENTION: asked})


def with_attention(teacher: TeacherConfig, compute: Mapping[str, Any]) -> TeacherConfig:
    """With the way to compute attention that a cache was begun with, where the config leaves it open."""
    begun = compute.get(ATTENTION)
    if begun is None or teacher.attention_implementation is not None:
        return teacher
    return teacher.model_copy(update={ATTENTION: begun})


def load_engine(wanted: Wanted) -> Engine:
    """Load the teacher of a task, and say so.

    Raises:
        TeacherError: It does not load, or cannot be used.
    """
    teacher = wanted.teacher
    by = "" if teacher.engine.kind == "transformers" else f", by {teacher.engine.kind}"
    say(f"loading {teacher.path} ({teacher.dtype}, {teacher.placement}) on {', '.join(map(str, wanted.devices))}{by}")
    return teacher.engine.load(wanted)
