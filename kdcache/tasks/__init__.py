"""Tasks: rows of a corpus -> examples with supervised positions.

settings                 what is asked of each row: a class of settings for each task
example                  Example, one model input
task                     Task, the protocol, and make_task, the registry
causal_lm                next-token prediction on documents or chats
packing                  token streams -> windows
chat                     conversations -> tokens and which of them are supervised
messages                 rows -> messages whose parts are text
template                 messages -> text, the same on every day and machine
clock                    the day that a chat template reads
turns                    which characters of a conversation are the assistant's
sequence_classification  one class for a text or a pair of texts
token_classification     a tag for each word
windows                  long texts -> overlapping windows
running_text             words -> the tokens of the text that they are
labels                   the classes of a classification
metrics                  what predictions of classes are worth
tokenizer                load, save and identify a tokenizer
characters               a tokenizer of the corpus' own characters
"""

from kdcache.tasks.example import Example
from kdcache.tasks.task import Task, make_task, task_columns

__all__ = ["Example", "Task", "make_task", "task_columns"]
