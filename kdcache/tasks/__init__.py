"""Tasks: rows of a corpus -> examples with supervised positions, and what is kept, trained and scored of them.

task                     Task, the facts of a task, and Reader, which makes examples of rows
registry                 TASKS, register_task, task_of
causal_lm                next-token prediction on texts, chats or token ids
classification           what the tasks of a few exclusive classes have in common
sequence_classification  one class for a text or a pair of texts
multilabel_classification any number of classes for a text
regression               scores for a text
token_classification     a tag for each word
texts                    what tasks of whole texts have in common
example                  Example, one model input
settings                 settings that several tasks share

packing                  documents as token streams -> windows
chat                     conversations -> tokens, and which of them are supervised
sees_more                what a teacher reads that sees more than its student
contexts                 what a document is to it, and whether both have the same tokens to learn
messages                 rows -> messages whose parts are text
template                 messages -> text, the same on every day and machine
clock                    the day that a chat template reads
token_ids                documents that were tokenised elsewhere
turns                    which characters of a conversation are the assistant's
windows                  long texts -> overlapping windows
running_text             words -> the tokens of the text that they are
tokenizer                loads, saves and identifies a tokenizer
tokenizer_names          which files may be a tokenizer's: a closed list
characters               a tokenizer of the corpus' own characters

labels, label_map        the classes of a classification, and what a corpus calls them
stored                   checks of what is stored for a position
metrics                  what predictions of classes are worth: accuracy, F1, calibration error
measures                 how tables show a figure: the columns of `kdcache eval`
score                    Score and Verdict: what a teacher's records say of the labels
language_score           the score of a language model
class_score              the score of a classifier

How to add a task
-----------------
Write one file and call `kdcache.register_task` on its class (it also serves as a decorator):

1. a class of settings with a field `name: Literal["mine"]`;
2. a subclass of `Task` with its facts: the columns it reads, the arrays that hold its labels, the Auto class of its
   models, its figures and their columns in tables. task.py says what each method is for; `classification.py` has
   most of them for tasks of a few classes;
3. a `Reader`, which makes an `Example` of each row, and says RowError for rows that it cannot use.

Name the file's module as `module` in the settings of a dump and of a run, and `task: {name: mine, …}` uses it. The
built-in tasks are such files in this folder, each with one line in registry.py; tests/extending/preference.py is a task
of a user's own.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcache.config.base import Config as Settings
    from kdcache.corpus.column import Column
    from kdcache.targets.fields import NO_LABEL, Field
    from kdcache.tasks.example import Example
    from kdcache.tasks.labels import Labels
    from kdcache.tasks.measures import Measure, Usage
    from kdcache.tasks.metrics import Predictions
    from kdcache.tasks.registry import register_task, task_of
    from kdcache.tasks.score import Score, Verdict
    from kdcache.tasks.task import Reader, Task

__all__ = [
    "NO_LABEL",
    "Column",
    "Example",
    "Field",
    "Labels",
    "Measure",
    "Predictions",
    "Reader",
    "Score",
    "Settings",
    "Task",
    "Usage",
    "Verdict",
    "register_task",
    "task_of",
]

_HOME = {
    "NO_LABEL": "kdcache.targets.fields",
    "Column": "kdcache.corpus.columns",
    "Example": "kdcache.tasks.example",
    "Field": "kdcache.targets.fields",
    "Labels": "kdcache.tasks.labels",
    "Measure": "kdcache.tasks.measures",
    "Predictions": "kdcache.tasks.metrics",
    "Reader": "kdcache.tasks.task",
    "Score": "kdcache.tasks.score",
    "Settings": "kdcache.config.base",
    "Task": "kdcache.tasks.task",
    "Usage": "kdcache.tasks.measures",
    "Verdict": "kdcache.tasks.score",
    "register_task": "kdcache.tasks.registry",
    "task_of": "kdcache.tasks.registry",
}


def __getattr__(name: str) -> Any:
    """Public names load on first use: a manifest is read without pyarrow, which reads a corpus."""
    if name not in _HOME:
        raise AttributeError(f"module 'kdcache.tasks' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), "Config" if name == "Settings" else name)
