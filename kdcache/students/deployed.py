"""What makes transformers' pipelines feed a finished student as its training did: tokenizer settings and usage.

A pipeline knows a folder alone. It feeds token types where the tokenizer's model_input_names has them, cuts at the
tokenizer's model_max_length, on its truncation_side, and pads on its padding_side. So these are set to what the student
was trained with, whatever the teacher's tokenizer said.
"""

from typing import Any

from kdcache.models.inputs import max_length
from kdcache.store.cache import Cache
from kdcache.students.collate import feeds_types
from kdcache.tasks import task_of

__all__ = ["deployed_tokenizer", "pipeline_of", "usage"]


def pipeline_of(cache: Cache) -> str:
    """The name of transformers' pipeline for the cache's task."""
    return task_of(cache.manifest.header.task).pipeline


def deployed_tokenizer(student: Any, cache: Cache, tokenizer: Any) -> dict[str, Any]:
    """Settings of tokenizer_config.json. tokenizer: the student's."""
    header, own = cache.manifest.header, max_length(student.config)
    task = task_of(header.task)
    if task.generates:
        return {"model_max_length": min([own or tokenizer.model_max_length, tokenizer.model_max_length])}
    limits = [limit for limit in (header.task.get(task.length_setting), own) if limit is not None]
    names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    if feeds_types(student, cache):
        names.insert(1, "token_type_ids")
    side = {"head": "right", "tail": "left"}.get(header.task.get("overlong") or "")
    return {
        **({} if side is None else {"truncation_side": side}),
        "model_input_names": names,
        "model_max_length": min(limits, default=tokenizer.model_max_length),
        "padding_side": "right",
    }


def usage(student: Any, cache: Cache) -> str:
    """How to use a student, in Markdown, for its card."""
    task, pinned = task_of(cache.manifest.header.task), cache.manifest.header.task
    own_code = ", trust_remote_code=True" if type(student)._auto_class else ""
    use = task.usage(pinned.get(task.length_setting))
    notes = [*use.notes, *(["The model's code lies in this folder."] if own_code else [])]
    return (
        f"\n## Use\n\n```python\nfrom transformers import pipeline\n\n"
        f'model = pipeline("{task.pipeline}", model="…"{own_code}{use.arguments})\n{use.call}\n```\n'
        + (f"\n{' '.join(notes)}\n" if notes else "")
    )
