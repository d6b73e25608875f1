"""What every section of a config has: it is frozen, refuses unknown keys, and expands ~ and $NAME in paths."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from kdcache.config.paths import check_local, expanded
from kdcache.errors import ConfigError
from kdcache.registry import import_extensions

__all__ = ["Config", "Count", "LocalText", "Name", "PathText", "Run", "import_module_of"]


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Run(Config):
    """What a whole settings file has.

    module: a module of yours to import first, from the working directory or the installed packages. It registers
        tasks, record kinds, divergences, backends or model classes of your own (kdcache.register_…).
    """

    module: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _import_module(cls, data: Any) -> Any:
        import_module_of(data)
        return data


def import_module_of(data: Any) -> None:
    """Import the module that a run's settings name, before anything asks for what it registers."""
    if isinstance(data, dict) and isinstance(data.get("module"), str):
        try:
            import_extensions(data["module"])
        except ConfigError as error:
            raise ValueError(str(error)) from None


def _expanded(path: str) -> str:
    try:
        return expanded(path)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _local(path: str) -> str:
    try:
        return check_local(path)
    except ConfigError as error:
        raise ValueError(str(error)) from None


PathText = Annotated[str, AfterValidator(_expanded)]
"""A path, a URL or a hub name; ~ and $NAME are expanded."""

LocalText = Annotated[PathText, AfterValidator(_local)]
"""A path or a hub name, and no URL; ~ and $NAME are expanded."""


Count = Annotated[int, Field(gt=0, le=2**31 - 1)]
"""How many of something: at least one, and no more than a run can have."""


def _name(value: object) -> object:
    """A column of conll and a class may be a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Name = Annotated[str, BeforeValidator(_name)]
