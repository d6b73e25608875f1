"""What makes transformers' pipelines feed a finished student as its training did: tokenizer settings and usage.

A pipeline knows a folder alone. It feeds token types where the tokenizer's model_input_names has them, cuts at the
tokenizer's model_max_length, on its truncation_side, and pads on its padding_side. So these are set to what the student
was trained with, whatever the teacher's tokenizer said.
"""

from typing import Any

from kdcache.models.inputs import max_length
from kdcache.store.cache import Cache
from kdcache.students.collate import feeds_types
from kdcache.tasks.windows import OVERLAP

__all__ = ["deployed_tokenizer", "pipeline_of", "usage"]

PIPELINES = {
    "causal_lm": "text-generation",
    "sequence_classification": "text-classification",
    "token_classification": "token-classification",
}


def pipeline_of(cache: Cache) -> str:
    """The name of transformers' pipeline for the cache's task."""
    return PIPELINES[cache.manifest.header.task["name"]]


def deployed_tokenizer(student: Any, cache: Cache, tokenizer: Any) -> dict[str, Any]:
    """Settings of tokenizer_config.json. tokenizer: the student's."""
    header, own = cache.manifest.header, max_length(student.config)
    limits = [limit for limit in (header.task.get("max_length"), own) if limit is not None]
    if header.id2label is None:
        return {"model_max_length": min([*limits, tokenizer.model_max_length])}
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
    header = cache.manifest.header
    own_code = ", trust_remote_code=True" if type(student)._auto_class else ""
    longest = header.task.get("max_length")
    settings, call, notes = "", 'model("Once upon a time")', []
    if header.task["name"] == "sequence_classification":
        settings, call = ", truncation=True", 'model("a text")'
        notes.append(f"Texts longer than {longest} tokens are cut." if longest else "")
        if header.task.get("overlong") == "middle_out":
            notes.append("In training their middle was cut out, here their end is: cut them yourself, or use kdcache.")
        if header.task.get("overlong") == "windows":
            room = f"windows of {longest} tokens that overlap by a quarter"
            notes.append(f"In training they were {room}: for the same scores take the mean of theirs.")
    elif header.task["name"] == "token_classification":
        call = 'model("a text")'
        notes.append("The tag of a word is that of its first token.")
        if longest:
            windows = f'stride={longest // OVERLAP}, aggregation_strategy="first"'
            notes.append(f"Texts longer than {longest} tokens: `pipeline(…, {windows})`.")
    if own_code:
        notes.append("The model's code lies in this folder.")
    text = " ".join(note for note in notes if note)
    return (
        f"\n## Use\n\n```python\nfrom transformers import pipeline\n\n"
        f'model = pipeline("{pipeline_of(cache)}", model="…"{own_code}{settings})\n{call}\n```\n'
        + (f"\n{text}\n" if text else "")
    )
