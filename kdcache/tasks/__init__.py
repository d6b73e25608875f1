"""Tasks: rows of a corpus -> examples with supervised positions, and what is kept, trained and scored of them.

To add a task of your own, write one file: a class of settings, a subclass of Task with its facts, and a Reader that
makes examples of rows; decorate the class with `register_task`, and name the file's module as `module` in the settings
of a dump or a run. A built-in task is such a file in this folder and a line in registry.py.

task                     Task, the facts of a task, and Reader, rows -> examples
registry                 TASKS, register_task, task_of
causal_lm                next-token prediction on documents or chats
classification           what the tasks of a few exclusive classes have in common
sequence_classification  one class for a text or a pair of texts
token_classification     a tag for each word
example                  Example, one model input
packing                  token streams -> windows
chat                     conversations -> tokens and which of them are supervised
messages                 rows -> messages whose parts are text
template                 messages -> text, the same on every day and machine
clock                    the day that a chat template reads
turns                    which characters of a conversation are the assistant's
windows                  long texts -> overlapping windows
running_text             words -> the tokens of the text that they are
settings                 settings that several tasks share
labels, label_map        the classes of a classification, and what a corpus calls them
stored                   checks of what is stored for a position
metrics, measures        what predictions of classes are worth, and how tables show it
score                    Score and Verdict: what a teacher's records say of the labels
language_score           the same of a language model
class_score              the same of classes
tokenizer                load, save and identify a tokenizer
characters               a tokenizer of the corpus' own characters
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcache.tasks.example import Example
    from kdcache.tasks.registry import register_task, task_of
    from kdcache.tasks.task import Reader, Task

__all__ = ["Example", "Reader", "Task", "register_task", "task_of"]

_HOME = {
    "Example": "kdcache.tasks.example",
    "Reader": "kdcache.tasks.task",
    "Task": "kdcache.tasks.task",
    "register_task": "kdcache.tasks.registry",
    "task_of": "kdcache.tasks.registry",
}


def __getattr__(name: str) -> Any:
    """Public names load on first use: a manifest is read without pyarrow, which reads a corpus."""
    if name not in _HOME:
        raise AttributeError(f"module 'kdcache.tasks' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
