"""YAML -> plain values, stricter than YAML is: no key twice, no nesting or aliases that would not end, no number or
text that no setting can have.

YAML lets the last of two equal keys win, so that a run trains with a rate that its author did not see.
"""

from typing import Any

import yaml

from kdcache.errors import one_line

__all__ = ["YamlError", "read_yaml"]

DEEPEST = 100
LARGEST = 2**63 - 1
MOST_VALUES = 100_000
"""The most values that a document may have with its aliases written out."""


class YamlError(Exception):
    """What is wrong with a text, to stand behind its name."""


def read_yaml(text: str) -> Any:
    """The value of one YAML document. Raises YamlError in one line."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        value = loader.construct_document(node)
        _check_scalars(value)
    except YamlError:
        raise
    except yaml.YAMLError as error:
        raise YamlError(f"is not YAML: {one_line(error, 300)}") from None
    except RecursionError:
        raise YamlError("is nested too deeply, expected a few levels of settings") from None
    except Exception as error:  # a date such as 2025-02-30, or a tag such as !!bool before another word
        raise YamlError(f"holds a value that is none: {one_line(error, 300)}") from None
    finally:
        if loader is not None:
            loader.dispose()
    return value


def _check_scalars(value: Any) -> None:
    """Raises YamlError for an integer of more than 63 bits, and for text that is no Unicode or has a NUL in it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_scalars(key)
            _check_scalars(inner)
    elif isinstance(value, list | tuple | set):
        for inner in value:
            _check_scalars(inner)
    elif isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        raise YamlError(f"holds an integer of {value.bit_length()} bits, expected at most 63")
    elif isinstance(value, str) and ("\0" in value or any("\ud800" <= one <= "\udfff" for one in value)):
        what = "a NUL" if "\0" in value else "half a surrogate pair"
        raise YamlError(f"holds the text {value[:40]!r} with {what} in it, expected valid Unicode without NUL")


class _Loader(yaml.SafeLoader):
    def fetch_flow_collection_start(self, token: Any) -> None:
        """The time of the scanner is quadratic in the depth of brackets."""
        if self.flow_level >= DEEPEST:
            raise YamlError("is nested too deeply, expected a few levels of settings")
        super().fetch_flow_collection_start(token)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in lines:
                    raise YamlError(
                        f"has the key {key.value} twice in one section, in lines {lines[key.value]} and {line}, "
                        "expected it once"
                    )
                lines[key.value] = line
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below a node, aliases written out. Raises YamlError for too many, or for a node inside itself."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise YamlError("has an alias inside its own anchor, expected values that end")
        return known[id(node)]
    known[id(node)] = 0
    inside = node.value if isinstance(node, yaml.SequenceNode | yaml.MappingNode) else []
    total = 1
    for item in inside:
        total += sum(_count(part, known) for part in (item if isinstance(item, tuple) else (item,)))
        if total > MOST_VALUES:
            raise YamlError(f"has more than {MOST_VALUES:,} values with its aliases written out, expected fewer")
    known[id(node)] = total
    return total
