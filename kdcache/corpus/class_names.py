"""What the integers of a column of labels stand for: names in a file's own schema, or in the settings.

Hugging Face's datasets writes its features as JSON into the schema metadata of Parquet and Arrow files, under
"huggingface": a ClassLabel has the names of its classes, in the order of their integers; so may the items of a
Sequence or List. −1 is a row without a label.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

__all__ = ["NO_CLASS", "names_in_schema"]

NO_CLASS = "-1"


def names_in_schema(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Column -> names of its classes, for the columns that have some."""
    with suppress(KeyError, ValueError, TypeError, AttributeError):
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        found = {str(column): _names(feature) for column, feature in features.items()}
        return {column: names for column, names in found.items() if names}
    return {}


def _names(feature: Any) -> list[str]:
    if isinstance(feature, list):
        return _names(feature[0]) if len(feature) == 1 else []
    if not isinstance(feature, dict):
        return []
    if feature.get("_type") == "ClassLabel":
        return [str(name) for name in feature.get("names") or []]
    return _names(feature.get("feature"))
