"""The teacher of a dump, loaded when it is first needed: a dump with nothing left to do never loads it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from kdcache.dump.classifier import AnyTeacher, load_classifier
from kdcache.dump.material import Material
from kdcache.dump.settings import ComputeConfig, TeacherConfig
from kdcache.dump.teacher import load_teacher, own_devices
from kdcache.dump.trial import begun_feeding, pins_of, try_teacher
from kdcache.errors import TeacherError
from kdcache.launcher import World
from kdcache.progress import say
from kdcache.targets.kind import RecordKind
from kdcache.targets.records import features_at
from kdcache.tasks import Example, Task
from kdcache.tasks.tokenizer import padding_id, vocabulary_size

__all__ = ["LazyTeacher", "devices_of", "fed_as", "load_any", "with_attention"]

ATTENTION = "attention_implementation"
FEEDING = ("together", "apart", ATTENTION)
"""What the header's compute says of how the teacher is run."""


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
        if self._begun:
            return fed_as(self._begun, material.config.teacher)
        assert self._model is not None
        found = try_teacher(material.config, self._model, material.first_examples, material.longest)
        return pins_of(found) | {ATTENTION: _attention(self._model)}

    def ready(self) -> AnyTeacher | None:
        """Loaded, and fed as the header says.

        Raises TeacherError where its files are no longer those that were digested, or where it computes attention in
        another way than the cache was begun with.
        """
        teacher = self._model
        if teacher is None:
            return None
        pinned = dict(self.feeding)
        expected, found = pinned.pop(ATTENTION, None), _attention(teacher)
        if found != expected:
            raise TeacherError(
                f"got a teacher that computes attention by {found}, expected {expected}, with which the cache was "
                f"begun: set teacher.{ATTENTION}: {expected}, or use another output folder"
            )
        teacher.feeding = replace(teacher.feeding, **pinned)
        return teacher

    @cached_property
    def _begun(self) -> dict[str, Any] | None:
        return begun_feeding(self.material.root)

    @cached_property
    def _model(self) -> AnyTeacher | None:
        material, config = self.material, self.material.config
        if config.teacher == "none":
            return None
        loaded = load_any(
            with_attention(config.teacher, self._begun or {}),
            config.compute,
            self.world,
            devices=self.devices,
            task=material.task,
            num_classes=material.num_classes,
            records=config.record,
            fed_with=material.fed_with,
            examples=lambda: material.first_examples,
        )
        if material.teacher_files is not None:
            material.teacher_files.check_unchanged()
        return loaded


def fed_as(compute: Mapping[str, Any], teacher: TeacherConfig | str) -> dict[str, Any]:
    """`feeding` of a begun cache, where the config does not ask for another one. compute: of its header."""
    pinned = {name: compute[name] for name in FEEDING if name in compute}
    asked = None if isinstance(teacher, str) else teacher.attention_implementation
    return pinned | ({} if asked is None else {ATTENTION: asked})


def with_attention(teacher: TeacherConfig, compute: Mapping[str, Any]) -> TeacherConfig:
    """With the way to compute attention that a cache was begun with, where the config leaves it open."""
    begun = compute.get(ATTENTION)
    if begun is None or teacher.attention_implementation is not None:
        return teacher
    return teacher.model_copy(update={ATTENTION: begun})


def _attention(teacher: AnyTeacher) -> str | None:
    """What transformers chose; None of a model that has no choice."""
    return getattr(teacher.model.config, "_attn_implementation", None)


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
