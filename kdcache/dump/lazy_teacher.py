"""The teacher of a dump, loaded when it is first needed: a dump with nothing left to do never loads it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from kdcache.dump.classifier import AnyTeacher, load_classifier
from kdcache.dump.material import Material
from kdcache.dump.settings import ComputeConfig, TeacherConfig
from kdcache.dump.teacher import load_teacher, own_devices
from kdcache.dump.trial import begun_feeding, pins_of, try_teacher
from kdcache.launcher import World
from kdcache.progress import say
from kdcache.targets.kind import RecordKind
from kdcache.targets.records import features_at
from kdcache.tasks import Example, Task
from kdcache.tasks.tokenizer import padding_id, vocabulary_size

__all__ = ["LazyTeacher", "devices_of", "load_any"]


def devices_of(teacher: TeacherConfig | str, compute: Any, world: World) -> list[torch.device]:
    """This rank's own; a CPU where there is no teacher. Raises ConfigError for devices that are not there."""
    return [torch.device("cpu")] if isinstance(teacher, str) else own_devices(teacher, compute, world)


class LazyTeacher:
    """`feeding` is what the header pins, `ready()` the teacher itself; None of a cache of labels."""

    def __init__(self, material: Material, devices: list[torch.device], world: World) -> None:
        self.material, self.devices, self.world = material, devices, world

    @cached_property
    def feeding(self) -> dict[str, Any]:
        """How it is fed, as a begun cache says, or else as trying it out finds."""
        material = self.material
        if material.folder is None:
            return {}
        begun = begun_feeding(material.root)
        if begun:
            return begun
        assert self._model is not None
        return pins_of(try_teacher(material.config, self._model, material.first_examples, material.longest))

    def ready(self) -> AnyTeacher | None:
        """Loaded, and fed as the header says."""
        if self._model is not None:
            self._model.feeding = replace(self._model.feeding, **self.feeding)
        return self._model

    @cached_property
    def _model(self) -> AnyTeacher | None:
        material, config = self.material, self.material.config
        if config.teacher == "none":
            return None
        return load_any(
            config.teacher,
            config.compute,
            self.world,
            devices=self.devices,
            task=material.task,
            num_classes=material.num_classes,
            records=config.record,
            fed_with=material.fed_with,
            examples=lambda: material.first_examples,
        )


def load_any(
    teacher: TeacherConfig,
    compute: ComputeConfig,
    world: World,
    *,
    devices: Sequence[torch.device],
    task: Task,
    num_classes: int,
    records: Sequence[RecordKind],
    fed_with: Any,
    examples: Callable[[], Sequence[Example]],
) -> AnyTeacher:
    """Load the teacher of a task, and say so.

    Args:
        teacher: Which, and how it is placed.
        compute: Its device and blocks.
        world: Which rank this is.
        devices: This rank's.
        task: What it is asked.
        num_classes: Columns of its logits.
        records: What is kept of it.
        fed_with: The tokenizer whose tokens it reads.
        examples: Gives some of the run's own, which a classifier is tried out with.

    Raises:
        TeacherError: It does not load, or cannot be used.
    """
    say(f"loading {teacher.path} ({teacher.dtype}, {teacher.placement}) on {', '.join(map(str, devices))}")
    features = features_at(records)
    if task.generates:
        return load_teacher(teacher, compute, world, task=task, num_classes=num_classes, features=features is not None)
    return load_classifier(
        teacher,
        compute,
        world,
        task=task,
        num_classes=num_classes,
        features=features,
        vocab_size=vocabulary_size(fed_with),
        padding=padding_id(fed_with),
        examples=examples(),
    )
