"""Column: what a task reads of each row. No pyarrow here, so that a task's facts are known without it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["MULTI_LABEL", "REGRESSION", "Column", "Where"]

Where = Callable[[int], str]
"""Row of a table -> its place in the corpus, such as "file.jsonl:123"."""
REGRESSION = "real-valued scores are of a regression: expected classes, or set task.name: regression"
MULTI_LABEL = "several labels for a text: expected one label, or set task.name: multilabel_classification"


@dataclass(frozen=True)
class Column:
    """A column that a task reads.

    Attributes:
        name: Its name in the files.
        setting: The key below corpus.* that names it, for messages.
        required: Whether every file and every row has it.
        kind: The type that it comes in; kdcache.corpus.columns says what each is.
    """

    name: str
    setting: str
    required: bool = True
    kind: Literal["text", "json", "label", "words", "labels", "numbers", "integers"] = "text"
