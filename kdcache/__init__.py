"""kdcache: run the teacher once, train many students from the cache.

The rooms, in the order in which they may import each other. Each room's own docstring names its files.

    registry     kinds of one thing by name, a user's own among them
    config       settings files: YAML -> frozen settings
    launcher     which rank, which world, which device, for both commands
    targets      records: what is kept of the teacher's distribution at one position, and what it answers
    corpus       rows of text in files, cut into work units
    tasks        rows -> examples: what is supervised, labels, scores
    models       loading models of transformers, feeding them, their output heads, cutting and saving
    store        the cache on disk: shards, backends, manifest, reading and writing
    stream       cache -> micro-batches: the order of examples
    losses       what a student's logits are compared with, and the gradient
    students     a student made, fed, its loss and its scores, for any trainer
    dump         `kdcache dump-logits`: teacher + corpus -> cache
    train        `kdcache train`: cache -> student, with DeepSpeed
    report       `kdcache inspect`, `verify`, `convert`, `eval`
    cli          the command line, which only calls the rooms

Every section of a settings file is a class in the settings.py of the room that reads it. A new task, record,
divergence, backend or student class is one file and one registration: the docstrings of tasks, targets, losses, store
and models say how, and tests/extending/ has examples.

The public names load on first use, so that `import kdcache` stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcache.losses.divergence import distillation_loss
    from kdcache.models.registry import register_student
    from kdcache.store.cache import Cache, open_cache
    from kdcache.store.writer import CacheWriter
    from kdcache.targets.compress import compress
    from kdcache.targets.record import TeacherTargets
    from kdcache.targets.spec import RecordSpec

__version__ = "0.1.0"
__all__ = [
    "Cache",
    "CacheWriter",
    "RecordSpec",
    "TeacherTargets",
    "compress",
    "distillation_loss",
    "open_cache",
    "register_student",
]

_HOME = {
    "Cache": "kdcache.store.cache",
    "CacheWriter": "kdcache.store.writer",
    "RecordSpec": "kdcache.targets.spec",
    "TeacherTargets": "kdcache.targets.record",
    "compress": "kdcache.targets.compress",
    "distillation_loss": "kdcache.losses.divergence",
    "open_cache": "kdcache.store.cache",
    "register_student": "kdcache.models.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kdcache' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
