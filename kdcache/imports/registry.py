"""FORMATS: what other tools' captures are written in, by name."""

from typing import TYPE_CHECKING

from kdcache.registry import Registry

if TYPE_CHECKING:
    from kdcache.imports.capture import Capture

__all__ = ["FORMATS", "register_import"]

FORMATS: "Registry[type[Capture]]" = Registry(
    "format of captures",
    {
        "jsonl": "kdcache.imports.jsonl:Jsonl",
        "distillkit": "kdcache.imports.distillkit:DistillKit",
        "megatron": "kdcache.imports.megatron:Megatron",
        "llama_cpp": "kdcache.imports.llama_cpp:LlamaCpp",
    },
)


def register_import(name: str, capture: "type[Capture]") -> None:
    """Make a format of captures of your own known by its name: `kdcache import NAME FILES… --module MODULE` reads it.

    Args:
        name: what the command calls it.
        capture: a subclass of kdcache.imports.capture.Capture.

    Raises:
        ConfigError: for a name that another format has.
    """
    FORMATS.register(name, capture)
