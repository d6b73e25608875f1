"""kdcache: run the teacher once, train many students from the cache.

Write a cache     CacheWriter, compress; `kdcache dump-logits`
Read it           open_cache, Cache, Batch, TeacherTargets; the manifest's types Manifest, Header, CommitRecord
Train from it     Loader, of a cache or of a Mixture of several, Collator, make_student, with_loss, loss_terms;
                  Prefetcher, which readies the next micro-batch on the device; distillation_loss on logits that exist;
                  HeadLoss with a Head, the fused output layer and loss, in a loop of your own;
                  tests/examples has a plain loop, Accelerate, transformers' Trainer and TRL's SFTTrainer
Score a student   evaluate_model
Add kinds         register_backend, register_divergence, register_engine, register_import, register_record,
                  register_student, register_task, register_term; RecordKind, SparseTargets, TailCurve and TeacherRows
                  for a record kind of your own
Errors            KdcacheError and those below it

The names load on first use, so that `import kdcache` stays cheap; none of them needs DeepSpeed.

The rooms, in the order in which they may import each other. Each room's own docstring names its files.

    errors       every error that a user can meet, as one tree
    near         "did you mean": the nearest of some names
    disk         atomic writes to a folder that survive a kill or a power loss
    progress     a bar on a terminal, plain lines elsewhere; words for counts and durations
    remote       files behind a URL: requests tried again, errors in one line
    hub          the Hugging Face Hub: places on it, its client, what it refuses in one line
    registry     kinds of one thing by name, a user's own among them
    owned        output folders: marked as ours or refused, and who writes in them now
    config       settings files: YAML -> frozen settings
    launcher     which rank, which world, which device, for both commands
    targets      records: what is kept of the teacher's distribution at one position, and what it answers
    corpus       rows of text in files, cut into work units
    tasks        rows -> examples: what is supervised, labels, scores
    models       loading models of transformers, feeding them, their output heads, cutting and saving
    store        the cache on disk: shards, backends, manifest, reading and writing
    imports      `kdcache import`: captures that other tools took -> cache
    share        caches pushed to a store or the Hugging Face Hub, and fetched from there
    stream       cache -> micro-batches: the order of examples
    losses       what a student's logits are compared with, and the gradient
    students     a student made, fed, its loss and its scores, for any trainer
    dump         `kdcache dump-logits`: teacher + corpus -> cache
    train        `kdcache train`: cache -> student, with DeepSpeed
    report       `kdcache inspect`, `verify`, `convert`, `eval`
    cli          the command line, which only calls the rooms

Every section of a settings file is a class in the settings.py of the room that reads it. A new task, record,
divergence, backend, student class or engine is one file and one registration: the docstrings of tasks, targets, losses,
store, models and dump.engines say how, and tests/extending/ has examples.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcache.dump.engines.registry import register_engine
    from kdcache.errors import (
        CacheError,
        ConfigError,
        CorpusError,
        DamagedShardError,
        KdcacheError,
        LockedError,
        RowError,
        StudentError,
        TeacherError,
        TrainError,
    )
    from kdcache.imports.registry import register_import
    from kdcache.losses.distillation import distillation_loss
    from kdcache.losses.registry import register_divergence, register_term
    from kdcache.losses.supervision import Supervision
    from kdcache.losses.term import make_term
    from kdcache.losses.terms import LossTerms
    from kdcache.models.head import Head
    from kdcache.models.registry import register_student
    from kdcache.store.arrow_backend import from_arrow, to_arrow
    from kdcache.store.backend import Layout, array_fields, register_backend
    from kdcache.store.batch import Batch
    from kdcache.store.cache import Cache, open_cache
    from kdcache.store.manifest import CommitRecord, Header, Manifest, TeacherPin, TokenizerPin
    from kdcache.store.writer import CacheWriter
    from kdcache.stream.loader import Loader
    from kdcache.stream.mixture import Mixture
    from kdcache.students.collate import Collator, Inputs
    from kdcache.students.head_loss import HeadLoss
    from kdcache.students.loss import StudentWithLoss, with_loss
    from kdcache.students.making import make_student
    from kdcache.students.prefetch import Prefetched, Prefetcher
    from kdcache.students.scoring import evaluate_model
    from kdcache.students.settings import StudentConfig
    from kdcache.students.terms import loss_terms
    from kdcache.targets.compress import compress
    from kdcache.targets.curve import TailCurve
    from kdcache.targets.fields import Field
    from kdcache.targets.kind import RecordKind
    from kdcache.targets.record import TeacherTargets
    from kdcache.targets.registry import register_record
    from kdcache.targets.sparse_targets import SparseTargets
    from kdcache.targets.teacher_rows import TeacherRows
    from kdcache.tasks.registry import register_task

__version__ = "0.1.0"
__all__ = [
    "Batch",
    "Cache",
    "CacheError",
    "CacheWriter",
    "Collator",
    "CommitRecord",
    "ConfigError",
    "CorpusError",
    "DamagedShardError",
    "Field",
    "Head",
    "HeadLoss",
    "Header",
    "Inputs",
    "KdcacheError",
    "Layout",
    "Loader",
    "LockedError",
    "LossTerms",
    "Manifest",
    "Mixture",
    "Prefetched",
    "Prefetcher",
    "RecordKind",
    "RowError",
    "SparseTargets",
    "StudentConfig",
    "StudentError",
    "StudentWithLoss",
    "Supervision",
    "TailCurve",
    "TeacherError",
    "TeacherPin",
    "TeacherRows",
    "TeacherTargets",
    "TokenizerPin",
    "TrainError",
    "array_fields",
    "compress",
    "distillation_loss",
    "evaluate_model",
    "from_arrow",
    "loss_terms",
    "make_student",
    "make_term",
    "open_cache",
    "register_backend",
    "register_divergence",
    "register_engine",
    "register_import",
    "register_record",
    "register_student",
    "register_task",
    "register_term",
    "to_arrow",
    "with_loss",
]

_HOMES = {
    "kdcache.dump.engines.registry": "register_engine",
    "kdcache.imports.registry": "register_import",
    "kdcache.errors": "CacheError ConfigError CorpusError DamagedShardError KdcacheError LockedError "
    "RowError StudentError TeacherError TrainError",
    "kdcache.losses.distillation": "distillation_loss",
    "kdcache.losses.registry": "register_divergence register_term",
    "kdcache.losses.supervision": "Supervision",
    "kdcache.losses.term": "make_term",
    "kdcache.losses.terms": "LossTerms",
    "kdcache.models.head": "Head",
    "kdcache.models.registry": "register_student",
    "kdcache.store.arrow_backend": "from_arrow to_arrow",
    "kdcache.store.backend": "Layout array_fields register_backend",
    "kdcache.store.batch": "Batch",
    "kdcache.store.cache": "Cache open_cache",
    "kdcache.store.manifest": "CommitRecord Header Manifest TeacherPin TokenizerPin",
    "kdcache.store.writer": "CacheWriter",
    "kdcache.stream.loader": "Loader",
    "kdcache.stream.mixture": "Mixture",
    "kdcache.students.collate": "Collator Inputs",
    "kdcache.students.head_loss": "HeadLoss",
    "kdcache.students.loss": "StudentWithLoss with_loss",
    "kdcache.students.making": "make_student",
    "kdcache.students.prefetch": "Prefetched Prefetcher",
    "kdcache.students.terms": "loss_terms",
    "kdcache.students.scoring": "evaluate_model",
    "kdcache.students.settings": "StudentConfig",
    "kdcache.targets.compress": "compress",
    "kdcache.targets.fields": "Field",
    "kdcache.targets.curve": "TailCurve",
    "kdcache.targets.kind": "RecordKind",
    "kdcache.targets.record": "TeacherTargets",
    "kdcache.targets.registry": "register_record",
    "kdcache.targets.sparse_targets": "SparseTargets",
    "kdcache.targets.teacher_rows": "TeacherRows",
    "kdcache.tasks.registry": "register_task",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kdcache' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
