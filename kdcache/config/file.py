"""A config file: YAML and the command line's overrides -> one of the frozen classes, its first fault in one line."""

import os
import select
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from kdcache.config.base import Config
from kdcache.config.chosen import Chosen
from kdcache.config.yaml_text import YamlError, read_yaml
from kdcache.disk import UnexpectedContent, read_regular
from kdcache.disk import fault as words_of
from kdcache.errors import ConfigError
from kdcache.near import nearest

__all__ = ["config_of", "load_config"]

MOST_BYTES = 1 << 20
"""Of a config: reading YAML takes 10 seconds per MiB."""
PIPE_SECONDS = 10.0

C = TypeVar("C", bound=Config)


def load_config(cls: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file, apply `key.sub=value` overrides (values are YAML; terms.0.weight is of the first), validate.

    Raises ConfigError: the first fault in one line, with the nearest valid key for an unknown one.
    """
    try:
        data = read_yaml(_text(Path(path)))
    except FileNotFoundError:
        raise ConfigError(f"got config {path}, which does not exist; expected a YAML file") from None
    except YamlError as error:
        raise ConfigError(f"{path} {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read config {path}: {words_of(error)}; expected a YAML file") from None
    if not isinstance(data, dict):
        got = "nothing" if data is None else type(data).__name__
        raise ConfigError(f"{path} holds {got}, expected a mapping of settings")
    return config_of(cls, data, str(path), overrides)


def config_of(cls: type[C], data: dict[str, Any], where: str, overrides: Sequence[str] = ()) -> C:
    """Settings that are read already, with overrides applied. where: they are from. Raises ConfigError."""
    for override in overrides:
        _apply(data, override)
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_fault(cls, data, error)}") from None
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply, expected a few levels of settings") from None


def _text(path: Path) -> str:
    """The text of a file, or of a pipe that someone writes now, as `<(…)` of a shell is.

    Raises OSError for anything else, for more than 1 MiB, and for a pipe that does not end in 10 seconds.
    """
    if not stat.S_ISFIFO(path.stat().st_mode):
        return read_regular(path, MOST_BYTES).decode("utf-8")
    descriptor, data, end = os.open(path, os.O_RDONLY | os.O_NONBLOCK), b"", time.monotonic() + PIPE_SECONDS
    with open(descriptor, "rb", buffering=0) as pipe:
        while True:
            ready, _, _ = select.select([pipe], [], [], max(end - time.monotonic(), 0))
            part = pipe.read(MOST_BYTES) if ready else None
            if part == b"":
                return data.decode("utf-8")
            data += part or b""
            if len(data) > MOST_BYTES or time.monotonic() > end:
                raise UnexpectedContent(f"got a FIFO of {len(data):,} bytes that does not end, expected a regular file")


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"got -o {override}, expected -o key=value, e.g. -o output=runs/cache")
    try:
        value = read_yaml(text)
    except YamlError as error:
        shown = override if len(override) <= 200 else f"{override[:200]}…"
        raise ConfigError(f"got -o {shown}, expected a YAML value after =; it {error}") from None
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


def _first_fault(cls: type[BaseModel], data: Any, error: ValidationError) -> str:
    faults = [*_with_those_of_chosen(error.errors())]
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    where = _key(fault, data)
    if fault["type"] == "extra_forbidden":
        return _unknown_key(cls, fault, where)
    if fault["type"] == "missing":
        return f"{where} is missing, expected a value"
    if fault["type"] == "model_type":
        valid = _keys_at(*_place(cls, fault))
        return f"{where}: got {_short(fault['input'])}, expected a mapping with keys such as {', '.join(valid)}"
    if fault["type"] == "value_error":
        message = _message(fault)
        return f"{where}: {message}" if where else message
    # A value of several types is refused by each of them.
    refused = [_message(f) for f in faults if f["type"] != "model_type" and _key(f, data) == where]
    return f"{where}: got {_short(fault['input'])}: {', or '.join(dict.fromkeys(refused))}"


def _message(fault: Any) -> str:
    message: str = fault["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
    return message if fault["type"] == "value_error" else f"{message[0].lower()}{message[1:]}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _key(fault: Any, data: Any) -> str:
    """The dotted key of a fault as the user's file has it: pydantic names types and branches in a location too."""
    names, inside = [], data
    for depth, part in enumerate(fault["loc"], 1):
        lacking = fault["type"] == "missing" and depth == len(fault["loc"])
        if isinstance(inside, dict) and (part in inside or lacking):
            names.append(str(part))
            inside = inside.get(part)
        elif isinstance(inside, list) and isinstance(part, int) and (part < len(inside) or lacking):
            names.append(str(part))
            inside = None if lacking else inside[part]
    return ".".join(names)


def _with_those_of_chosen(faults: Sequence[Any]) -> Iterator[Any]:
    """The faults, with those inside a chosen setting in their places; `inside`: (its class, the place in it)."""
    for fault in faults:
        if fault["type"] != "chosen":
            yield fault
            continue
        for inner in _with_those_of_chosen(fault["ctx"]["faults"]):
            place = inner.get("inside", (fault["ctx"]["cls"], inner["loc"]))
            yield {**inner, "loc": (*fault["loc"], *inner["loc"]), "inside": place}


def _place(cls: type[BaseModel], fault: Any) -> tuple[type[BaseModel], list[str]]:
    """The innermost class that is known to be meant, and the names below it."""
    inner, loc = fault.get("inside", (cls, fault["loc"]))
    return inner, [part for part in loc if isinstance(part, str)]


def _unknown_key(cls: type[BaseModel], fault: Any, where: str) -> str:
    inner, path = _place(cls, fault)
    valid = _keys_at(inner, path[:-1])
    name = str(fault["loc"][-1])
    elsewhere = {key: key.rpartition(".")[2] for key in _all_keys(cls)}
    meant = nearest(name, valid)
    if meant is None:
        leaves = [name] if name in elsewhere.values() else [nearest(name, set(elsewhere.values()))]
        meant = " or ".join(key for key, leaf in elsewhere.items() if leaf in leaves)
    hint = f" did you mean {meant}?" if meant else ""
    return f"unknown key {where};{hint} Valid keys here: {', '.join(valid)}"


def _all_keys(cls: type[BaseModel], above: str = "") -> list[str]:
    """Dotted keys of a class and of the classes inside it; of a list's item with its number left open."""
    found: list[str] = []
    for name, field in cls.model_fields.items():
        found.append(above + name)
        for inner in _config_classes(field.annotation, field.metadata):
            many = "N." if "tuple" in str(field.annotation) else ""
            found += _all_keys(inner, f"{above}{name}.{many}")
    return list(dict.fromkeys(found))


def _keys_at(cls: type[BaseModel], path: list[str]) -> list[str]:
    """Valid keys of the nested config class at a location that pydantic reported."""
    branches: list[type[BaseModel]] = []
    for part in path:
        if part in cls.model_fields:
            field = cls.model_fields[part]
            branches = _config_classes(field.annotation, field.metadata)
            cls = branches[0] if branches else cls
        cls = next((branch for branch in branches if part in _tags(branch)), cls)
    return sorted(cls.model_fields)


def _config_classes(annotation: object, metadata: Sequence[object] = ()) -> list[type[BaseModel]]:
    chosen = [one for one in (*metadata, *getattr(annotation, "__metadata__", ())) if isinstance(one, Chosen)]
    if chosen:
        return chosen[0].classes()
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [cls for argument in getattr(annotation, "__args__", ()) for cls in _config_classes(argument)]


def _tags(cls: type[BaseModel]) -> set[str]:
    """What tells a class of a union from the others: the values of its fields that have only one."""
    values = [get_args(field.annotation) for field in cls.model_fields.values()]
    return {found[0] for found in values if len(found) == 1 and isinstance(found[0], str)}
