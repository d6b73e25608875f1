"""The teacher of a dump, loaded when it is first needed: a dump with nothing left to do never loads it."""

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from kdcache.dump.classifier import AnyTeacher, load_classifier
from kdcache.dump.material import Material
from kdcache.dump.settings import TeacherConfig
from kdcache.dump.teacher import load_teacher, own_devices
from kdcache.dump.trial import begun_feeding, pins_of, try_teacher
from kdcache.launcher import World
from kdcache.progress import say
from kdcache.targets.records import features_at
from kdcache.tasks.tokenizer import padding_id, vocabulary_size

__all__ = ["LazyTeacher", "devices_of"]


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
        teacher, features = config.teacher, features_at(config.record)
        if teacher == "none":
            return None
        where = ", ".join(map(str, self.devices))
        say(f"loading {teacher.path} ({teacher.dtype}, {teacher.placement}) on {where}")
        if material.task.generates:
            return load_teacher(
                teacher,
                config.compute,
                self.world,
                task=material.task,
                num_classes=material.num_classes,
                features=features is not None,
            )
        return load_classifier(
            teacher,
            config.compute,
            self.world,
            task=material.task,
            num_classes=material.num_classes,
            features=features,
            vocab_size=vocabulary_size(material.fed_with),
            padding=padding_id(material.fed_with),
            examples=material.first_examples,
        )
