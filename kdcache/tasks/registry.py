"""TASKS: the tasks by name; task_of: the task of some settings; TaskConfig: the settings of any of them."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field

from kdcache.config.base import Config
from kdcache.config.chosen import Chosen
from kdcache.errors import ConfigError
from kdcache.registry import Registry

if TYPE_CHECKING:
    from kdcache.tasks.task import Task

__all__ = ["DEFAULT", "TASKS", "TaskConfig", "register_task", "task_of"]

TASKS: Registry[Any] = Registry(
    "task",
    {
        "causal_lm": "kdcache.tasks.causal_lm:CausalLM",
        "sequence_classification": "kdcache.tasks.sequence_classification:SequenceClassification",
        "multilabel_classification": "kdcache.tasks.multilabel_classification:MultilabelClassification",
        "regression": "kdcache.tasks.regression:Regression",
        "token_classification": "kdcache.tasks.token_classification:TokenClassification",
    },
)
DEFAULT = "causal_lm"
"""The task of settings that name none."""

TaskConfig = Annotated[
    Config,
    Chosen(TASKS, "name", lambda task: task.Settings, default=DEFAULT),
    Field(default={}, validate_default=True),
]


def register_task(task: "type[Task]") -> "type[Task]":
    """Make a task of your own known by its name, in configs and in caches; also as a decorator of the class.

    Args:
        task: A subclass of kdcache.tasks.Task, with a name and a class of settings that has a field `name`.

    Returns:
        The same class.

    Raises:
        ConfigError: Another task has this name, or the settings do not take it.
    """
    field = task.Settings.model_fields.get("name")
    if field is None or task.name not in getattr(field.annotation, "__args__", ()):
        raise ConfigError(
            f"got a task {task.name} whose {task.Settings.__name__} does not name it, expected a field name: "
            f'Literal["{task.name}"]'
        )
    TASKS.register(task.name, task)
    return task


def task_of(settings: Mapping[str, Any] | BaseModel) -> "Task":
    """The task of its settings, as a config or the header of a cache has them.

    Args:
        settings: A mapping that names the task, or an object of its class of settings.

    Raises:
        ConfigError: No task has this name.
        ValueError: The settings are not this task's; pydantic's ValidationError is one.
    """
    if isinstance(settings, BaseModel):
        made: Task = TASKS[getattr(settings, "name")](settings)  # noqa: B009
        return made
    return _of_text(json.dumps({"name": DEFAULT, **settings}, sort_keys=True, default=str))


@lru_cache(maxsize=64)
def _of_text(text: str) -> "Task":
    values = json.loads(text)
    cls: type[Task] = TASKS[values["name"]]
    return cls(cls.Settings.model_validate(values))
