"""Transformers: the engine that holds a model of transformers in this process."""

from typing import TYPE_CHECKING, ClassVar, Literal

from kdcache.dump.engines.engine import Engine, EngineSettings, Wanted
from kdcache.dump.engines.model_engine import ATTENTION
from kdcache.dump.placements.placement import placement_of
from kdcache.targets.records import features_at
from kdcache.tasks import Task
from kdcache.tasks.tokenizer import padding_id, vocabulary_size

if TYPE_CHECKING:
    from kdcache.dump.settings import TeacherConfig

__all__ = ["Transformers"]


class Transformers(EngineSettings):
    """A model of transformers in this process, on the devices and ranks that teacher.placement says."""

    kind: Literal["transformers"] = "transformers"
    pinned: ClassVar[tuple[str, ...]] = ("together", "apart", ATTENTION)

    def gpus(self, teacher: "TeacherConfig") -> int:
        """As EngineSettings says."""
        return placement_of(teacher).gpus(teacher)

    def check(self, teacher: "TeacherConfig", task: Task) -> None:
        """As EngineSettings says."""
        placement_of(teacher).check(teacher)

    def load(self, wanted: Wanted) -> Engine:
        """A causal language model or a classifier, as the task says."""
        from kdcache.dump.classifier import load_classifier
        from kdcache.dump.teacher import load_teacher

        features, given = features_at(wanted.records), (wanted.teacher, wanted.compute, wanted.world)
        if wanted.task.generates:
            return load_teacher(*given, task=wanted.task, num_classes=wanted.num_classes, features=features is not None)
        return load_classifier(
            *given,
            task=wanted.task,
            num_classes=wanted.num_classes,
            features=features,
            vocab_size=vocabulary_size(wanted.fed_with),
            padding=padding_id(wanted.fed_with),
            examples=wanted.examples(),
        )
