"""The conversation of a corpus row: a list of {role, content}, or the JSON text of one.

Keys without a value are left out: a column of structs gives every message every key, of tool calls inside them too.
Content may be a list of parts, as the field writes it for models that also see and hear; parts of text are taken,
others are refused.
"""

import json
from collections.abc import Iterator
from typing import Any

from kdcache.errors import RowError
from kdcache.tasks.task import Where

__all__ = ["Messages", "arguments_as", "flattened", "only_words", "python_source", "read_messages"]

Messages = list[dict[str, Any]]
PART = "{type: text, text: …}"


def read_messages(value: object, field: str, row: int, where: Where) -> Messages:
    """Raises RowError, naming the row, for anything but a list of messages whose parts are text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise _wrong(field, row, where, "text that is not JSON") from None
    else:
        value = _without_nulls(value)
    if not isinstance(value, list) or not value:
        raise _wrong(field, row, where, "an empty list" if value == [] else _named(value))
    messages = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict):
            raise _wrong(field, row, where, f"{_named(message)} as message {number}")
        kept = {key: item for key, item in message.items() if item is not None}
        if not isinstance(kept.get("role"), str) or not (
            isinstance(kept.get("content"), str | list) or "tool_calls" in kept
        ):
            raise _wrong(field, row, where, f"message {number} with {', '.join(kept) or 'nothing'}")
        if isinstance(kept.get("content"), list):
            kept["content"] = [_part(part, number, row, where) for part in kept["content"]]
        messages.append(kept)
    return messages


def only_words(messages: Messages) -> bool:
    """Whether every value is plain text, so that no template can write it in another way."""
    return not any(isinstance(item, dict | list) for message in messages for item in message.values())


def flattened(messages: Messages) -> Messages:
    """Lists of text parts as the text they make, one after the other with nothing between."""
    return [
        message | {"content": "".join(part["text"] for part in message["content"])}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def arguments_as(kind: type, messages: Messages) -> Messages:
    """The same tool calls with their arguments as a mapping (dict) or as JSON text (str), where they can be."""
    return [
        message | {"tool_calls": [_call_as(kind, call) for call in message["tool_calls"]]}
        if isinstance(message.get("tool_calls"), list)
        else message
        for message in messages
    ]


def python_source(messages: Messages, text: str) -> str | None:
    """What stands in the rendered text as Python prints it, or as JSON of JSON; None where nothing does."""
    others = [item for message in messages for key, item in message.items() if key != "content"]
    for value in _values([item for item in others if isinstance(item, dict | list)]):
        if not isinstance(value, dict | list):
            continue
        source = str(value)
        if source != json.dumps(value) and source in text:
            return source
        arguments = value.get("arguments") if isinstance(value, dict) else None
        if isinstance(arguments, str) and arguments.startswith("{") and (twice := json.dumps(arguments)) in text:
            return twice
    return None


def _call_as(kind: type, call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return call | {"function": _call_as(kind, call["function"])}
    arguments = call.get("arguments")
    if kind is str and isinstance(arguments, dict):
        return call | {"arguments": json.dumps(arguments, ensure_ascii=False)}
    if kind is dict and isinstance(arguments, str):
        try:
            found = json.loads(arguments)
        except (ValueError, RecursionError):
            return call
        return call | {"arguments": found} if isinstance(found, dict) else call
    return call


def _values(value: Any) -> Iterator[Any]:
    """The value and all inside it."""
    yield value
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inside:
        yield from _values(item)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _part(part: object, number: int, row: int, where: Where) -> dict[str, str]:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict) and kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    got = f"type {kind}" if isinstance(kind, str) and kind != "text" else f"{_named(part)} of no such form"
    raise RowError(
        where,
        row,
        f": message {number} has a part of {got}, expected parts of text, {PART}: kdcache distils text "
        "alone; leave such rows out",
    )


def _named(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _wrong(field: str, row: int, where: Where, got: str) -> RowError:
    return RowError(where, row, f": {field} is {got}, expected a list of {{role, content}}")
