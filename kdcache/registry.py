"""Registry: the kinds of one thing (tasks, record kinds, divergences, backends) by name, a user's own among them.

Built-in kinds are imported when they are first asked for, so that naming one costs nothing.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from kdcache.errors import ConfigError, one_line
from kdcache.near import did_you_mean

__all__ = ["Registry", "import_extensions"]

T = TypeVar("T")


class Registry(Generic[T]):
    """what: the word for one of them in messages. homes: of built-in ones, name -> "module:attribute"."""

    def __init__(self, what: str, homes: Mapping[str, str]) -> None:
        self.what = what
        self._homes = dict(homes)
        self._found: dict[str, T] = {}

    def register(self, name: str, kind: T) -> None:
        """Raises ConfigError for a name that another one has. The same one may come again."""
        if name in self and self._found.get(name) is not kind:
            raise ConfigError(f"got a second {self.what} called {name}, expected a name of its own")
        self._found[name] = kind

    def __getitem__(self, name: str) -> T:
        """Raises ConfigError for a name that none has."""
        if name not in self:
            raise ConfigError(self.unknown(name))
        if name not in self._found:
            module, _, attribute = self._homes[name].partition(":")
            self._found[name] = getattr(importlib.import_module(module), attribute)
        return self._found[name]

    def unknown(self, name: str) -> str:
        """What to say of a name that none has."""
        meant = did_you_mean(name, self) or f"; expected one of {', '.join(self)}"
        return f"got {self.what} {name!r}, which is not known{meant}"

    @property
    def built_in(self) -> list[str]:
        """The names that come with kdcache."""
        return [*self._homes]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._homes or name in self._found)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._homes, *self._found)))


def import_extensions(module: str | None) -> None:
    """Import a module that registers kinds or model classes, from the working directory or the installed packages.

    Raises ConfigError for one that cannot be imported.
    """
    if module is None:
        return
    if not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(f"got module {module!r}, expected the name of a Python module, such as mine.records")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"got module {module}, which cannot be imported ({one_line(error)}); expected one here or an installed one"
        ) from None
