"""What every section of a config has: it is frozen, refuses unknown keys, and expands ~ and $NAME in paths."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from kdcache.errors import ConfigError
from kdcache.paths import expanded

__all__ = ["Config", "Name", "PathText"]


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _expanded(path: str) -> str:
    try:
        return expanded(path)
    except ConfigError as error:
        raise ValueError(str(error)) from None


PathText = Annotated[str, AfterValidator(_expanded)]
"""A path, a URL or a hub name; ~ and $NAME are expanded."""


def _name(value: object) -> object:
    """A column of conll and a class may be a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Name = Annotated[str, BeforeValidator(_name)]
