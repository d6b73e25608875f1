"""Tasks: rows of a corpus -> examples with supervised positions, and examples -> what a model is fed.

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
models                   the Auto class of a task, loading a model whole, trying a classifier out
modes                    evaluating: eval mode for a while
registry                 register_student: model classes of a user's own
small_models             an embedding bag and a BiLSTM
feeding                  how a model is fed with examples: in which passes, documents packed or apart
neighbours               whether a model's logits depend on an example's neighbours
probes                   the rows to try that with
inputs                   examples -> the arguments of a model's forward, the same for teacher and student
tokenizer                load, save and identify a tokenizer
characters               a tokenizer of the corpus' own characters
"""

from kdcache.tasks.example import Example
from kdcache.tasks.task import Task, make_task, task_columns

__all__ = ["Example", "Task", "make_task", "task_columns"]
