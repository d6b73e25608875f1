"""JSON schemas of the files of a cache, from the classes that read them.

    python launch/format_schemas.py

writes kdcache/store/schemas/{manifest,header,commit_record}.json (draft 2020-12). Canonical JSON leaves out keys that
are null, so a key is required just where null is not allowed. tests/launch/test_format_schemas.py compares the two.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kdcache.store.manifest import CommitRecord, Header, Manifest

FOLDER = Path(__file__).parent.parent / "kdcache" / "store" / "schemas"
CLASSES: dict[str, type[BaseModel]] = {"manifest": Manifest, "header": Header, "commit_record": CommitRecord}
REQUIRES = {
    "description": "The features of the format that a reader must know.",
    "items": {"type": "string"},
    "type": "array",
    "uniqueItems": True,
}


def text(cls: type[BaseModel]) -> str:
    """The schema of a class, as its file has it."""
    schema = _canonical(cls.model_json_schema())
    header = schema if cls is Header else schema["$defs"].get("Header")
    if header is not None:
        header["properties"]["requires"] = REQUIRES
        header["required"] = sorted([*header["required"], "requires"])
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(whole, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def _canonical(node: Any) -> Any:
    """Without null, defaults and titles; of an object every key is required that was not null."""
    if isinstance(node, list):
        return [_canonical(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {key: _canonical(value) for key, value in node.items() if key not in ("default", "title")}
    for key in {"properties", "$defs"} & node.keys():
        made[key] = {name: _canonical(value) for name, value in node[key].items()}
    if "anyOf" in made:
        made["anyOf"] = [one for one in made["anyOf"] if one != {"type": "null"}]
        if len(made["anyOf"]) == 1:
            made |= made.pop("anyOf")[0]
    if "additionalProperties" in made and "properties" in made:
        given = node["properties"]
        made["required"] = sorted(name for name, one in given.items() if {"type": "null"} not in one.get("anyOf", ()))
    if "description" in made:
        made["description"] = made["description"].partition("\n\n")[0].replace("\n", " ")
    return made


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, cls in CLASSES.items():
        (FOLDER / f"{name}.json").write_text(text(cls), encoding="utf-8")
