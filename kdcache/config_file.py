"""A config file: YAML and the command line's overrides -> one of the frozen classes, its first fault in one line."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from kdcache.config import CausalLMConfig, ClassificationConfig, Config
from kdcache.errors import ConfigError

__all__ = ["load_config"]

C = TypeVar("C", bound=Config)


def load_config(cls: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file, apply `key.sub=value` overrides (values are YAML; terms.0.weight is of the first), validate.

    Raises ConfigError: the first fault in one line, with the nearest valid key for an unknown one.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"got config {path}, which does not exist; expected a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror}; expected a YAML file") from None
    if not isinstance(data, dict):
        got = "nothing" if data is None else type(data).__name__
        raise ConfigError(f"{path} holds {got}, expected a mapping of settings")
    for override in overrides:
        _apply(data, override)
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_fault(cls, error)}") from None


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"got -o {override}, expected -o key=value, e.g. -o output=runs/cache")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"got -o {override}, expected a YAML value after =") from None
    *parents, last = key.split(".")
    inner: Any = data
    for depth, parent in enumerate(parents):
        name = _name_in(inner, parent, override)
        child = inner[name] if isinstance(inner, list) else inner.get(name)
        keeps_list = isinstance(child, list) and [*parents, last][depth + 1].isdecimal()
        if not isinstance(child, dict) and not keeps_list:
            inner[name] = child = {}
        inner = child
    inner[_name_in(inner, last, override)] = value


def _name_in(inner: dict[str, Any] | list[Any], name: str, override: str) -> Any:
    """A key of a mapping or the number of a list's item, counted from 0. Raises ConfigError outside the list."""
    if isinstance(inner, dict):
        return name
    if int(name) >= len(inner):
        raise ConfigError(f"got -o {override}, expected an item of the list from 0 to {len(inner) - 1}")
    return int(name)


def _first_fault(cls: type[BaseModel], error: ValidationError) -> str:
    faults = error.errors()
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    where = ".".join(str(part) for part in fault["loc"] if not _is_tag(part))
    if fault["type"] == "extra_forbidden":
        return _unknown_key(cls, fault["loc"], where)
    if fault["type"] == "missing":
        return f"{where} is missing, expected a value"
    message = fault["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
    if fault["type"] == "model_type":
        valid = _keys_at(cls, [part for part in fault["loc"] if isinstance(part, str)])
        return f"{where}: got {fault['input']!r}, expected a mapping with keys such as {', '.join(valid)}"
    if fault["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: got {fault['input']!r}: {message[0].lower()}{message[1:]}"


def _is_tag(part: int | str) -> bool:
    """Pydantic names the branch of a union in the location; a user has no such key."""
    tags = {"int", "str", "tuple", *(_tag(cls) for cls in _TASKS)}
    return isinstance(part, str) and (part[:1].isupper() or "[" in part or part in tags)


def _unknown_key(cls: type[BaseModel], loc: tuple[int | str, ...], where: str) -> str:
    valid = _keys_at(cls, [part for part in loc[:-1] if isinstance(part, str)])
    nearest = difflib.get_close_matches(str(loc[-1]), valid, n=1, cutoff=0.0)
    hint = f"did you mean {nearest[0]}?" if nearest else ""
    return f"unknown key {where}; {hint} Valid keys here: {', '.join(valid)}"


def _keys_at(cls: type[BaseModel], path: list[str]) -> list[str]:
    """Valid keys of the nested config class at a location that pydantic reported."""
    branches: list[type[BaseModel]] = []
    for part in path:
        if part in cls.model_fields:
            branches = _config_classes(cls.model_fields[part].annotation)
            cls = branches[0] if branches else cls
        cls = next((branch for branch in branches if _tag(branch) == part), cls)
    return sorted(cls.model_fields)


def _config_classes(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [cls for argument in getattr(annotation, "__args__", ()) for cls in _config_classes(argument)]


_TASKS = _config_classes(CausalLMConfig | ClassificationConfig)


def _tag(cls: type[BaseModel]) -> str | None:
    """The name that tells a task's class from the others."""
    return get_args(cls.model_fields["name"].annotation)[0] if cls in _TASKS else None
