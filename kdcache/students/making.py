"""The student: made from a config (random, the same on every rank and at every world size) or loaded from a folder.

It is made in float32 whatever the run's precision: DeepSpeed keeps float32 master weights and casts for itself, and
the folder written at the end has `student.dtype`. A student with more classes than the cache is taught that the upper
ones have probability 0.
"""

from pathlib import Path
from typing import Any

import torch

from kdcache.errors import ConfigError, StudentError, one_line
from kdcache.models.hub import model_folder
from kdcache.models.loading import auto_class, check_classifier, load_whole
from kdcache.models.registry import register_small_models
from kdcache.models.strangers import ADAPTER, model_config
from kdcache.near import did_you_mean
from kdcache.store.cache import Cache
from kdcache.store.same_tokenizer import cached_tokenizer
from kdcache.students.collate import check_length, feeding_of
from kdcache.students.same_tokenizer import check_tokenizer
from kdcache.students.settings import StudentConfig
from kdcache.students.special_ids import config_ids, free_padding, mend_ids, set_generation_ids
from kdcache.students.trial import check_neighbours, first_examples
from kdcache.tasks import task_of
from kdcache.tasks.labels import is_whole_number
from kdcache.tasks.tokenizer import padding_id

__all__ = ["check_fits", "make_student", "student_folder"]


def make_student(
    config: StudentConfig, cache: Cache, seed: int, *, batch_examples: int = 8, device: str = "cpu"
) -> Any:
    """Make or load a transformers model with the head of the cache's task, and check that it fits the cache.

    Args:
        config: A folder or a hub name to load, or a model config to make it from with random weights.
        cache: The cache that it will learn from. The special ids are those of its tokenizer (special_ids.py).
        seed: Of the random weights.
        batch_examples: How many examples are tried together, to see whether neighbours change what the model says.
        device: Where that is tried.

    Returns:
        The model, in train mode, on the CPU unless the loading put it elsewhere.

    Raises:
        ConfigError: The model type or a key of its config is unknown.
        StudentError: It cannot be made, has fewer classes than the cache, another tokenizer, too few positions, or
            logits that depend on an example's neighbours.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    register_small_models()
    torch.manual_seed(seed)
    tokenizer = None if cache.manifest.header.tokenizer is None else cached_tokenizer(cache)
    if config.config is not None:
        student = _from_config(config, cache, tokenizer)
    else:
        student = _from_folder(config, cache, tokenizer)
    problem = task_of(cache.manifest.header.task).problem_type
    if problem is not None:
        student.config.problem_type = problem
    check_fits(student, cache)
    check_neighbours(student, cache, batch_examples=batch_examples, device=device)
    if config.gradient_checkpointing:
        new_name = hasattr(student, "activation_checkpointing_enable")
        enable = student.activation_checkpointing_enable if new_name else student.gradient_checkpointing_enable
        try:
            enable({"use_reentrant": False})
        except ValueError:
            raise StudentError(
                f"{type(student).__name__} has no gradient checkpointing; set student.gradient_checkpointing to false"
            ) from None
    return student.train()


def _from_config(config: StudentConfig, cache: Cache, tokenizer: Any | None) -> Any:
    from transformers import CONFIG_MAPPING

    assert config.config is not None
    header = cache.manifest.header
    task = task_of(header.task)
    vocabulary = task.vocab_size(header.num_classes, header.tokenizer.vocab_size if header.tokenizer else None)
    settings = {"vocab_size": vocabulary, **class_settings(cache), **config.config}
    model_type = settings.pop("model_type")
    if model_type not in CONFIG_MAPPING:
        hint = did_you_mean(model_type, CONFIG_MAPPING) or "; expected the model_type of a config.json"
        raise ConfigError(f"got student.config.model_type {model_type}, which transformers does not know{hint}")
    config_class = CONFIG_MAPPING[model_type]
    valid = config_class()
    for key in settings:
        hint = did_you_mean(key, valid.to_dict())
        if hint and not hasattr(valid, key):
            raise ConfigError(f"unknown key student.config.{key} for {model_type}{hint}")
    settings |= config_ids(valid, config.config, tokenizer, settings["vocab_size"], generates=task.generates)
    try:
        student = auto_class(task).from_config(
            config_class(**settings),
            trust_remote_code=False,
            dtype=torch.float32,
            attn_implementation=config.attention_implementation,
        )
    except Exception as error:
        raise StudentError(f"no {model_type} student can be made of student.config: {_one_line(error)}") from None
    if task.generates or _pads_with_a_token(student.config, tokenizer):
        free_padding(student, fresh=True)
    set_generation_ids(student, tokenizer)
    return student


def _pads_with_a_token(config: Any, tokenizer: Any | None) -> bool:
    """Whether padding is a token that means something else too, such as the end of text."""
    if tokenizer is None or getattr(config, "pad_token_id", None) is None:
        return False
    named = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.sep_token_id)
    return config.pad_token_id in (*named, tokenizer.cls_token_id, tokenizer.mask_token_id)


def _from_folder(config: StudentConfig, cache: Cache, tokenizer: Any | None) -> Any:
    task, folder = task_of(cache.manifest.header.task), student_folder(config)
    if not any((folder / name).is_file() for name in ("config.json", ADAPTER)):
        raise StudentError(f"got student.path {folder}, expected a folder with config.json and model.safetensors")
    check_tokenizer(folder, cache)
    try:
        student = load_whole(
            auto_class(task),
            folder,
            new_head=not task.generates,
            dtype=torch.float32,
            attn_implementation=config.attention_implementation,
            trust_remote_code=config.trust_remote_code,
            **_own_classes(folder, cache, config.trust_remote_code),
        )
    except StudentError:
        raise
    except Exception as error:
        raise StudentError(f"the student {folder} does not load: {_one_line(error)}") from None
    if tokenizer is not None:
        mend_ids(student, tokenizer, str(folder))
    if task.generates or _pads_with_a_token(student.config, tokenizer):
        free_padding(student, fresh=False)
    set_generation_ids(student, tokenizer)
    return student


def student_folder(config: StudentConfig) -> Path:
    """The folder that a student is loaded from; a hub name is fetched first. Raises StudentError if there is none."""
    assert config.path is not None
    return model_folder(
        config.path,
        what="student.path",
        error=StudentError,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
    )


def class_settings(cache: Cache) -> dict[str, Any]:
    """What a classification's cache says of a student's config: its classes' names, and the token of padding."""
    header = cache.manifest.header
    task = task_of(header.task)
    settings = task.config_settings(header.id2label)
    if task.generates or header.tokenizer is None:
        return settings
    return settings | {"pad_token_id": padding_id(cached_tokenizer(cache))}


def _own_classes(folder: Path, cache: Cache, trust_remote_code: bool) -> dict[str, Any]:
    """The cache's, for a folder that names none. Raises StudentError where it names others."""
    header = cache.manifest.header
    if task_of(header.task).generates or header.id2label is None:
        return {}
    own = model_config(folder, trust_remote_code=trust_remote_code)
    if all(name == f"LABEL_{i}" for i, name in own.id2label.items()):
        return class_settings(cache)
    _check_names(own, header.id2label)
    return {}


def check_fits(student: Any, cache: Cache) -> None:
    """Raises StudentError for weights that are no numbers, other classes, too few positions, or a classifier that
    cannot be run."""
    _check_finite(student)
    header = cache.manifest.header
    task = task_of(header.task)
    head = student.get_output_embeddings()
    if (head is not None) != task.generates:
        got, expected = ("no output layer", "one") if head is None else ("an output layer", "none")
        raise StudentError(f"{type(student).__name__} has {got} over a vocabulary, expected {expected} for {task.name}")
    if not task.generates:
        if header.id2label is not None:
            _check_names(student.config, header.id2label)
        try:
            vocabulary = 1 if header.tokenizer is None else header.tokenizer.vocab_size
            feeding, examples = feeding_of(student, cache), first_examples(cache)
            check_classifier(student, task, header.num_classes, vocabulary, feeding, examples)
        except ValueError as error:
            raise StudentError(f"{type(student).__name__} does not fit the cache: {error}") from None
    elif head.weight.shape[0] < header.num_classes:
        raise StudentError(
            f"got a student with {head.weight.shape[0]} classes (vocab_size), expected at least the cache's "
            f"{header.num_classes}; a wider student learns that the others never occur"
        )
    longest = header.task.get(task.length_setting)
    if longest is not None:
        check_length(student, longest)


def _check_finite(student: Any) -> None:
    """Raises StudentError naming the first weight that is not finite."""
    broken = [(name, weight) for name, weight in student.named_parameters() if not weight.isfinite().all()]
    if broken:
        name, weight = broken[0]
        count = int((~weight.isfinite()).sum())
        raise StudentError(
            f"got a student whose weight {name} holds NaN or infinity in {count:,} of its {weight.numel():,} numbers, "
            f"and so for {len(broken)} of its weights, expected finite ones: the run that made it went wrong"
        )


def _check_names(config: Any, names: dict[int, str]) -> None:
    """Raises StudentError where a student has other classes than the cache, or calls one otherwise.

    LABEL_3 may be any name but another number.
    """
    theirs = {int(i): name for i, name in config.id2label.items()}
    if len(theirs) != len(names):
        raise StudentError(
            f"got a student of {len(theirs)} classes ({', '.join(theirs.values())}), expected the cache's {len(names)} "
            f"({', '.join(names.values())}); if the corpus lacks a class, dump it with task.labels"
        )
    for i, name in names.items():
        unnamed = theirs.get(i) == f"LABEL_{i}" and (not is_whole_number(name) or name == str(i))
        if theirs.get(i) != name and not unnamed:
            raise StudentError(
                f"got a student whose class {i} is {theirs.get(i)}, expected {name} as in the cache: its labels are "
                "others, or in another order"
            )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error, 300)}"
