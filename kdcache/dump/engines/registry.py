"""ENGINES: the engines by name; EngineConfig: the settings of any of them."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from kdcache.config.chosen import Chosen
from kdcache.dump.engines.engine import EngineSettings
from kdcache.registry import Registry

__all__ = ["ENGINES", "EngineConfig", "register_engine"]

ENGINES: Registry[type[EngineSettings]] = Registry(
    "engine",
    {
        "transformers": "kdcache.dump.engines.transformers:Transformers",
        "vllm": "kdcache.dump.engines.vllm:Vllm",
    },
)


def _named(value: object) -> object:
    """`engine: vllm` is `engine: {kind: vllm}`."""
    return {"kind": value} if isinstance(value, str) else value


EngineConfig = Annotated[
    EngineSettings,
    Chosen(ENGINES, "kind", default="transformers"),
    BeforeValidator(_named),
    Field(default={}, validate_default=True),
]


def register_engine(name: str, settings: type[EngineSettings]) -> None:
    """Make an engine of your own known by its name.

    Settings files then take it as `teacher.engine: {kind: NAME, …}`; `module: MODULE` at the top of a settings file
    imports the module that calls this.

    Args:
        name: What settings files call it.
        settings: A subclass with a field `kind: Literal[NAME] = NAME`.

    Raises:
        ConfigError: Another engine has this name.
    """
    ENGINES.register(name, settings)
