"""Tasks: rows of a corpus -> examples with supervised positions, and examples -> what a model is fed.

example    Example, one model input
task       Task, the protocol, and the registry: task_columns, make_task
causal_lm  next-token prediction on documents or chats
packing    token streams -> windows
chat       conversations -> tokens and which of them are supervised
inputs     examples -> input ids and position ids, the same for teacher and student
tokenizer  load, save and identify a tokenizer
"""

from kdcache.tasks.example import Example
from kdcache.tasks.task import Task, make_task, task_columns

__all__ = ["Example", "Task", "make_task", "task_columns"]
