"""Engines: what runs a teacher.

engine         Engine: examples in, hidden states or logits of their positions out; EngineSettings, which load one
registry       ENGINES, register_engine
model_engine   what engines have in common that hold a model of transformers
transformers   a model of transformers in this process: its settings and how it is loaded
vllm           a teacher that vLLM runs, in this process or as a server; its head is applied here
vllm_local     vLLM in this process
vllm_served    a vLLM that runs already, on this machine or another
vllm_states    what vLLM is told so that it writes hidden states, and how they are read
vllm_connector the part that runs inside vLLM and hands out hidden states

How to add an engine
--------------------
Write one file with two classes, and call `kdcache.register_engine`: a subclass of `Engine`, whose methods say what each
is for, and one of `EngineSettings`, whose `load` makes it. `teacher.engine: {kind: mine, …}` in a settings file uses
it, with the file's module as `module`. tests/extending/bigrams.py is one.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcache.dump.engines.engine import Engine, EngineSettings, Rows, Wanted

__all__ = ["Engine", "EngineSettings", "Rows", "Wanted"]


def __getattr__(name: str) -> Any:
    """On first use: settings files are read without torch's parts that engines need."""
    if name not in __all__:
        raise AttributeError(f"module 'kdcache.dump.engines' has no attribute {name!r}")
    return getattr(import_module("kdcache.dump.engines.engine"), name)
