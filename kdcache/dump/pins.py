"""What a dump fixes before it starts: the header of the cache.

Two runs with equal headers write equal shards of equal rows on the same hardware, so shards of a resumed run are kept
only under an equal header. World size, host and time are not in it, and where the teacher lay is not compared. Nor are
the corpus and the settings for bad and overlong rows in it, which each shard pins for itself (kdcache.dump.resume).
"""

import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kdcache.corpus import Corpus
from kdcache.dump.settings import DumpConfig, TeacherConfig
from kdcache.dump.teacher_files import TeacherFiles
from kdcache.errors import ConfigError, TeacherError, one_line
from kdcache.models.inputs import max_length
from kdcache.models.strangers import model_config
from kdcache.store.builder import library_versions
from kdcache.store.manifest import Header, TeacherPin, TokenizerPin
from kdcache.store.schema import task_fields
from kdcache.tasks import Task, task_of
from kdcache.tasks.labels import Labels

__all__ = ["OF_THE_CORPUS", "build_header", "check_length", "longest_input", "pin_teacher", "read_model_config"]

OPTIONAL_FIELDS = {
    *("text_pair_field", "teacher_messages_field", "label_field", "tokens_field", "loss_mask_field", "tags_field"),
    *("delimiter", "comment", "columns", "quotes", "label_names", "split", "subset", "revision"),
}
"""What else of the corpus decides what its rows say, in the header where it is set."""
OF_THE_CORPUS = {*OPTIONAL_FIELDS, "text_field", "messages_field", "unit_rows"}
"""Keys of a header's `compute` that say how its corpus is read; the others say how its teacher ran."""


def build_header(
    config: DumpConfig,
    *,
    corpus: Corpus,
    tokenizer: TokenizerPin,
    teacher: TeacherPin | None,
    labels: Labels | None,
    features: int | None,
    types: bool,
    compute: dict[str, Any],
    tokenizing: list[str],
) -> Header:
    """labels: the classes, None for a language model. features: their width, where the record has them. types: whether
    tokens have types.

    tokenizing: the packages that make tokens of text.
    compute: the resolved device kind, means of compression, hardware, threads and batch shape of this run.
    """
    task = task_of(config.task)
    records = config.record if teacher else ()
    num_classes = task.num_classes(tokenizer.vocab_size, labels)
    return Header(
        backend=config.backend,
        block_examples=config.block_examples,
        task=config.task.model_dump(mode="json", exclude={"labels", *task.remedies}, exclude_none=True),
        records=records,
        num_classes=num_classes,
        fields=task_fields(task, tokenizer.vocab_size, num_classes, records, features=features, types=types),
        id2label=None if labels is None else dict(enumerate(labels.names)),
        tokenizer=tokenizer,
        teacher=teacher,
        compute={
            **compute,
            "text_field": config.corpus.text_field,
            "messages_field": config.corpus.messages_field,
            **config.corpus.model_dump(include=OPTIONAL_FIELDS, exclude_defaults=True, mode="json"),
            "unit_rows": corpus.unit_rows,
        },
        seed=config.seed,
        libraries=library_versions(config.backend, teacher=teacher is not None)
        | {name: version(name) for name in tokenizing},
    )


def pin_teacher(
    config: TeacherConfig,
    folder: str,
    files: TeacherFiles,
    own: Mapping[str, Any] | None = None,
) -> TeacherPin:
    """Name, revision, dtype, size and the digests of its files.

    own: what else is pinned of tokens that it reads and the cache does not have.
    """
    model_config = read_model_config(config, folder)
    local = Path(config.path).is_dir()
    return TeacherPin(
        name=Path(folder).resolve().name if local else config.path,
        revision=config.revision if local else config.revision or Path(folder).name,
        weights_sha256=files.weights_sha256,
        files=files.others,
        dtype=config.dtype,
        parameters=count_parameters(folder),
        architecture=(model_config.architectures or [model_config.model_type])[0],
        **(own or {}),
    )


def read_model_config(config: TeacherConfig, folder: str) -> Any:
    try:
        return model_config(folder, trust_remote_code=config.trust_remote_code)
    except ValueError as error:
        raise TeacherError(f"the teacher {folder} cannot be read: {one_line(error)}") from None


def longest_input(config: TeacherConfig, folder: str) -> int | None:
    """The most tokens that the teacher can read, None for any number."""
    return max_length(read_model_config(config, folder))


def count_parameters(folder: str) -> int:
    """Elements of all stored tensors; only the files' headers are read. Raises TeacherError for a damaged file."""
    from safetensors import SafetensorError, safe_open

    count = 0
    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                count += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            words = one_line(error)
            raise TeacherError(f"{path} is no whole safetensors file ({words}); copy it again") from None
    return count


def check_length(task: Task, config: TeacherConfig, longest: int | None) -> None:
    """Raises ConfigError when examples may be longer than the teacher can read, `longest` tokens."""
    if longest is not None and task.longest > longest:
        raise ConfigError(
            f"got task.{task.length_setting} {task.longest}, expected at most {longest}, "
            f"the most positions that the teacher {config.path} has"
        )
