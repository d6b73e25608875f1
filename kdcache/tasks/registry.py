"""TASKS: the tasks by name."""

from typing import Any

from kdcache.registry import Registry

__all__ = ["TASKS"]

TASKS: Registry[Any] = Registry(
    "task",
    {
        "causal_lm": "kdcache.tasks.causal_lm:CausalLM",
        "sequence_classification": "kdcache.tasks.sequence_classification:SequenceClassification",
        "token_classification": "kdcache.tasks.token_classification:TokenClassification",
    },
)
