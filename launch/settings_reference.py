"""Every setting of a settings file, as a page: read from the classes of settings and their docstrings.

    python launch/settings_reference.py > configs/SETTINGS.md

A section of the page is a class: what its docstring says of the whole, then a row for each setting with its type, its
default and the docstring's entry for it. An entry of a docstring is "name: text" or "name, other: text" at the start of
a line, and its further lines are indented. Kinds that a registry knows (tasks, records, terms, divergences) have a
section each; those that a user registered are left out.
"""

import inspect
import json
import re
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from kdcache.config.base import PathText
from kdcache.config.chosen import Chosen, Known
from kdcache.dump.settings import DumpConfig
from kdcache.losses.divergence import Range
from kdcache.registry import Registry
from kdcache.train.settings import TrainConfig

PAGE = Path(__file__).parent.parent / "configs" / "SETTINGS.md"
RUNS: dict[str, type[BaseModel]] = {"kdcache dump-logits CONFIG": DumpConfig, "kdcache train CONFIG": TrainConfig}
_HEAD = """\
# Settings

This page is printed by `python launch/settings_reference.py` from the classes that read the settings; edit their
docstrings, not this page (tests/launch/test_settings_reference.py compares the two). Every setting can also be given on
the command line: `-o task.sequence_length=512`. A misspelt key is answered with the nearest valid one. Relative paths
are relative to the working directory; `~` and `$NAME` are expanded in paths."""
_EXPANDED = get_args(PathText)[1]
_PLAIN = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "anything", object: "anything"}


def page() -> str:
    """The whole page, in Markdown."""
    parts = [_HEAD]
    for command, cls in RUNS.items():
        parts.append(f"## `{command}`")
        parts += [section(path, one) for path, one in sections(cls)]
    return "\n\n".join(parts) + "\n"


def sections(cls: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """A class of settings and those inside it, each with the place of its keys in the file."""
    yield path, cls
    for name, field in cls.model_fields.items():
        for said, inner in _inside(field.annotation, field.metadata):
            many = ".N" if _is_list(field.annotation) and not _may_be_one(field) else ""
            beside = said.startswith(f", {name}: ")
            yield from sections(inner, path + said if beside else f"{path}.{name}{many}".lstrip(".") + said)


def section(path: str, cls: type[BaseModel]) -> str:
    """One class of settings: its words, and a table of its settings."""
    about, entries = described(cls)
    parts = [f"### `{path}`"] if path else []
    parts += [about] if about else []
    rows = [
        f"| `{name}` | {type_words(name, field)} | {default_words(name, field)} | {entries.get(name, '')} |"
        for name, field in cls.model_fields.items()
        if not _told_by_the_title(name, field, path)
    ]
    head = ["| setting | type | default | what it does |", "|---|---|---|---|"]
    return "\n\n".join([*parts, "\n".join([*head, *rows]) if rows else "It has no settings."])


def described(cls: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """What a class's docstring says of the whole, and of each of its settings."""
    text = inspect.cleandoc(cls.__doc__ or "") if "__doc__" in vars(cls) else ""
    names = "|".join(map(re.escape, cls.model_fields))
    entry = re.compile(rf"((?:{names})(?:, (?:{names}))*): (.*)") if names else None
    prose: list[str] = []
    entries = _inherited(cls)
    current: list[str] = []
    for line in text.splitlines():
        found = entry.fullmatch(line) if entry else None
        if found:
            current = found[1].split(", ")
            entries |= dict.fromkeys(current, found[2])
        elif current and line.startswith("    "):
            for name in current:
                entries[name] += f" {line.strip()}"
        else:
            current = []
            prose.append(line)
    paragraphs = re.split(r"\n\s*\n", "\n".join(prose).strip())
    about = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return about, {name: words.replace("|", "\\|") for name, words in entries.items()}


def _inherited(cls: type[BaseModel]) -> dict[str, str]:
    """What the docstrings of the classes above say of settings that this class has from them."""
    above = [base for base in cls.__mro__[1:] if issubclass(base, BaseModel) and base.model_fields]
    return {name: words for base in reversed(above) for name, words in described(base)[1].items()}


def type_words(name: str, field: FieldInfo) -> str:
    """The type of a setting in plain words."""
    chosen = _chosen(field.metadata)
    if chosen is not None and chosen.key == name:
        return f"{_names(chosen.registry)}; see below"
    words = _words(field.annotation, field.metadata)
    return words.replace("list of: ", "").replace(", see", ", or a list of them; see") if _may_be_one(field) else words


def _may_be_one(field: FieldInfo) -> bool:
    """Whether a list of mappings may be given as a mapping: the one that it would hold."""
    (item, *_) = (*get_args(field.annotation), None)
    listed = any(isinstance(one, BeforeValidator) for one in field.metadata)
    return listed and _chosen(getattr(item, "__metadata__", ())) is not None


def _chosen(metadata: Sequence[Any]) -> Chosen | None:
    return next((one for one in metadata if isinstance(one, Chosen)), None)


def _names(registry: Registry[Any]) -> str:
    return ", ".join(f"`{name}`" for name in registry.built_in) + ", or a registered one"


def _words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    chosen = _chosen(metadata)
    if chosen is not None:
        return f"mapping with `{chosen.key}`, see below"
    known = next((one for one in metadata if isinstance(one, Known)), None)
    if known is not None:
        return _names(known.registry)
    if origin is Annotated:
        return _words(arguments[0], (*arguments[1:], *metadata))
    if origin is Literal:
        return ", ".join(f"`{json.dumps(one) if one in ('', ' ') else one}`" for one in arguments)
    if origin in (Union, types.UnionType):
        words = [_words(one, metadata) for one in arguments if one is not type(None)]
        return " or ".join(dict.fromkeys(words))
    if origin in (tuple, list):
        if len(arguments) == 2 and arguments[1] is not Ellipsis:
            return " and ".join(_words(one) for one in arguments)
        return f"list of: {_words(arguments[0])}"
    if origin is dict:
        return f"mapping from {_words(arguments[0])} to {_words(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping, see below"
    if annotation is str and _EXPANDED in metadata:
        return "path"
    return f"{_PLAIN.get(annotation, getattr(annotation, '__name__', str(annotation)))}{_range(annotation, metadata)}"


def _range(annotation: Any, metadata: Sequence[Any]) -> str:
    if annotation not in (int, float):
        return ""
    bounds = []
    for one in metadata:
        inner = [one] if not isinstance(one, FieldInfo) else one.metadata
        for bound in inner:
            if isinstance(bound, annotated_types.Gt):
                bounds.append("1 or more" if annotation is int and bound.gt == 0 else f"above {bound.gt:g}")
            elif isinstance(bound, annotated_types.Ge):
                bounds.append(f"{bound.ge:g} or more")
            elif isinstance(bound, annotated_types.Le) and annotation is int and bound.le >= 2**24:
                continue  # more than any run has
            elif isinstance(bound, annotated_types.Le):
                bounds.append(f"at most {bound.le:g}")
            elif isinstance(bound, Range):
                bounds.append(bound.expected)
    return f", {', '.join(bounds)}" if bounds else ""


def default_words(name: str, field: FieldInfo) -> str:
    """The default of a setting as a settings file would say it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    chosen = _chosen(field.metadata)
    if chosen is not None and (named := getattr(value, chosen.key, chosen.default)) is not None:
        return f"`{named}`" if chosen.key == name else f"`{{{chosen.key}: {named}}}`"
    if value is None:
        return ""
    if _may_be_one(field):
        (value,) = value
    return (
        f"`{json.dumps(_plain(value), ensure_ascii=False)}`".replace('"', "") if not _empty(value) else "its defaults"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in sorted(_kind_of(value) | value.model_fields_set)}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value


def _empty(value: Any) -> bool:
    return isinstance(value, BaseModel) and not value.model_fields_set and not _kind_of(value)


def _kind_of(value: BaseModel) -> set[str]:
    """The field that names the kind of these settings, where there are several kinds."""
    return {name for name in type(value).model_fields if name in ("kind", "name") and _names_a_class(value, name)}


def _names_a_class(value: BaseModel, name: str) -> bool:
    annotation = type(value).model_fields[name].annotation
    return get_origin(annotation) is Literal and len(get_args(annotation)) == 1


def _inside(annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[tuple[str, type[BaseModel]]]:
    """The classes of settings inside a setting; of kinds, with the words that tell which one it is."""
    chosen = _chosen(metadata)
    if chosen is not None:
        for name, cls in zip(chosen.registry, chosen.classes(), strict=True):
            if cls.__module__.startswith("kdcache."):
                yield f", {chosen.key}: {name}", cls
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", annotation
    elif get_origin(annotation) is Annotated:
        inner, *about = get_args(annotation)
        yield from _inside(inner, about)
    else:
        for argument in get_args(annotation):
            yield from _inside(argument)


def _is_list(annotation: Any) -> bool:
    inner = [annotation, *get_args(annotation)]
    return any(get_origin(one) in (tuple, list) for one in inner)


def _told_by_the_title(name: str, field: FieldInfo, path: str) -> bool:
    """Whether a setting has one value only, which the section's title says."""
    return len(get_args(field.annotation)) == 1 and path.endswith(f"{name}: {get_args(field.annotation)[0]}")


if __name__ == "__main__":
    print(page(), end="")
