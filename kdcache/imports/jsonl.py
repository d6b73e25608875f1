"""JSONL: log-probabilities of the likeliest classes, one text a line, as vLLM, OpenAI's API and axolotl write them.

A line is an object with token ids and, in one of these forms, log-probabilities. Fields that are not named here are
left alone.

vLLM's server and engine (docs.vllm.ai, vllm/logprobs.py: PromptLogprobs is a list of {token id: Logprob}, the first
of them null; Logprob has logprob, rank, decoded_token)

    {"prompt_token_ids": [5, 7, 2], "prompt_logprobs": [null, {"7": {"logprob": -0.1, "rank": 1}, …}, {…}]}
    {"prompt_token_ids": […], "token_ids": [9, 4], "logprobs": [{"9": {"logprob": -0.3, "rank": 1}, …}, {…}]}
    {"choices": [{"prompt_token_ids": …, "prompt_logprobs": …, "token_ids": …, "logprobs": …}, …]}

  Entry i of prompt_logprobs is the distribution of token i. The token itself is an entry even where it is not among the
  likeliest, so that a position has k or k + 1 entries; the k likeliest are kept.

OpenAI's completions and chats (`logprobs` of a choice; served with vLLM's --return-tokens-as-token-ids, so that classes
are told by id: "token_id:9")

    {"tokens": ["token_id:9", …], "top_logprobs": [{"token_id:9": -0.3, …}, …]}       after the prompt, or with echo all
    {"content": [{"token": "token_id:9", "top_logprobs": [{"token": "token_id:9", "logprob": -0.3}, …]}, …]}

axolotl (axolotl-ai-cloud/axolotl, src/axolotl/integrations/kd: README.md "Target alignment" and chat_template.py)

    {"input_ids": […], "target_token_ids": [[9, 4], …], "target_logprobs": [[-0.3, -1.2], …], "target_mask": …}
    {"input_ids": […], "target_token_ids": [[9, 4], …], "logprobs": [[-0.3, -1.2], …]}
    {"input_ids": […], "logprobs": [[{"token": "token_id:9", "logprob": -0.3}, …], …]}

  As many rows as tokens: row j is of token j + 1. Fewer rows: they belong to the last tokens, row by row, as the raw
  data sets of its plugin have them. Tokens with 0 in target_mask or −100 in `labels` are left out. Versions of 2025
  wrote row j for token j: give --shift -1, which the check of the alignment tells.

Read at about 9 MB/s and 6,000 positions of 20 entries a second, by one CPU; the lines of a unit are in memory.

P positions, E entries, flat.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, ClassVar

import numpy as np

from kdcache.errors import CorpusError
from kdcache.imports.capture import Captured
from kdcache.imports.corpus_capture import CorpusCapture
from kdcache.imports.json_entries import Entries, entries_of, integers, token_id
from kdcache.imports.options import ImportOptions

__all__ = ["Jsonl"]

FIELDS = (
    *("input_ids", "prompt_token_ids", "token_ids", "prompt_logprobs", "logprobs", "choices"),
    *("labels", "target_token_ids", "target_logprobs", "target_mask"),
)
Placed = list[tuple[int, Entries]]
"""Positions with their entries."""


class Jsonl(CorpusCapture):
    """JSONL of vLLM, OpenAI's API or axolotl."""

    may_have_label: ClassVar[bool] = True

    def __init__(self, paths: Sequence[str], options: ImportOptions) -> None:
        own = (options.logprobs_field,) if options.logprobs_field not in (None, *FIELDS) else ()
        self._open(paths, options, "jsonl", (*FIELDS, *(name for name in own if name)))

    @property
    def facts(self) -> dict[str, Any]:
        return {"rounded": "as the file has them"}

    def texts(self, row: dict[str, Any], where: str) -> Iterator[Captured]:
        fields = {name: _parsed(value.as_py(), name, where) for name, value in row.items()}
        fields = {name: value for name, value in fields.items() if value is not None}
        if name := self.options.logprobs_field:
            if name not in fields:
                raise CorpusError(f"{where} has no field {name}, expected it for --logprobs-field")
            fields["logprobs"] = fields.pop(name)
        choices = fields.pop("choices", None)
        if choices is None:
            yield _text(fields, where)
            return
        if not isinstance(choices, list) or not all(isinstance(one, dict) for one in choices):
            raise CorpusError(f"{where}: choices is no list of objects, expected an answer of a completions server")
        for number, choice in enumerate(choices):
            named = {name: value for name, value in choice.items() if name in FIELDS and value is not None}
            yield _text(fields | named, f"{where} choice {number}" if len(choices) > 1 else where)


def _text(fields: dict[str, Any], where: str) -> Captured:
    tokens, placed = _placed(fields, where)
    masked = _masked(fields, len(tokens), where)
    last = len(tokens) - 1
    placed = [(at, entries) for at, entries in placed if 0 <= at < last and at + 1 not in masked]
    return Captured(
        where,
        np.array(tokens, np.int64),
        np.array([at for at, _ in placed], np.int64),
        np.array([len(ids) for _, (ids, _) in placed], np.int64),
        np.array([*chain.from_iterable(ids for _, (ids, _) in placed)], np.int64),
        np.array([*chain.from_iterable(log_probs for _, (_, log_probs) in placed)], np.float64),
    )


def _placed(fields: dict[str, Any], where: str) -> tuple[list[int], Placed]:
    """The tokens, and where each distribution stands."""
    prompt_name = next((name for name in ("input_ids", "prompt_token_ids") if name in fields), None)
    prompt = [] if prompt_name is None else integers(fields[prompt_name], prompt_name, where)
    if "target_token_ids" in fields:
        return prompt, _axolotl(fields, len(prompt), where)
    placed: Placed = []
    if "prompt_logprobs" in fields:
        rows = _list(fields["prompt_logprobs"], "prompt_logprobs", where)
        if len(rows) != len(prompt):
            raise CorpusError(
                f"{where}: prompt_logprobs has {len(rows)} items, expected {len(prompt)}, as many as prompt_token_ids"
            )
        placed = [
            (i - 1, entries_of(one, f"{where}, prompt_logprobs {i}")) for i, one in enumerate(rows) if one is not None
        ]
    generated = integers(fields["token_ids"], "token_ids", where) if "token_ids" in fields else None
    if "logprobs" in fields:
        rows, named = _generated(fields["logprobs"], where)
        if rows and rows[0] is None:  # with echo the prompt is among them, and nothing foretells its first token
            tokens = named or prompt
            return tokens, [(i - 1, entries_of(one, f"{where}, token {i}")) for i, one in enumerate(rows) if one]
        if not prompt and not named and not generated:
            raise CorpusError(
                f"{where} has log-probabilities and no token ids, expected input_ids, prompt_token_ids or token_ids: "
                "of conversations write the ids of tokenizer.apply_chat_template as input_ids"
            )
        if generated is None and not named:
            begin = len(prompt) - len(rows)  # they belong to the last of the tokens
            generated, prompt = (prompt[begin:], prompt[:begin]) if begin >= 0 else ([], prompt)
        generated = named if generated is None else generated
        if len(rows) != len(generated):
            raise CorpusError(f"{where}: logprobs has {len(rows)} items, expected one for each of its tokens")
        start = len(prompt) - 1
        placed += [(start + r, entries_of(one, f"{where}, logprobs {r}")) for r, one in enumerate(rows)]
    if not placed and "prompt_logprobs" not in fields and "logprobs" not in fields:
        raise CorpusError(
            f"{where} has no log-probabilities, expected prompt_logprobs, logprobs or target_logprobs (or another "
            f"name, given as --logprobs-field); it has {', '.join(fields) or 'none of these fields'}"
        )
    tokens = prompt + (generated or [])
    if not tokens:
        raise CorpusError(f"{where} has no token ids, expected input_ids, prompt_token_ids or token_ids")
    return tokens, placed


def _axolotl(fields: dict[str, Any], tokens: int, where: str) -> Placed:
    name = "target_logprobs" if "target_logprobs" in fields else "logprobs"
    ids = _list(fields["target_token_ids"], "target_token_ids", where)
    log_probs = _list(fields.get(name), name, where)
    mask = fields.get("target_mask")
    if (
        len(ids) != len(log_probs)
        or len(ids) > tokens
        or (mask is not None and len(_list(mask, "", where)) != len(ids))
    ):
        raise CorpusError(
            f"{where}: target_token_ids has {len(ids)} rows and {name} {len(log_probs)}, expected as many, and at most "
            f"one for each of {tokens} tokens of input_ids"
        )
    start = 0 if len(ids) == tokens else tokens - len(ids) - 1
    placed = []
    for row, (ids_E, log_probs_E) in enumerate(zip(ids, log_probs, strict=True)):
        if mask is not None and not any(mask[row] if isinstance(mask[row], list) else [mask[row]]):
            continue
        classes = integers(ids_E, f"target_token_ids {row}", where)
        if not isinstance(log_probs_E, list) or len(log_probs_E) != len(classes):
            raise CorpusError(f"{where}: {name} {row} has other entries than target_token_ids, expected as many")
        placed.append((start + row, entries_of([[p, i] for p, i in zip(log_probs_E, classes, strict=True)], where)))
    return placed


def _generated(logprobs: Any, where: str) -> tuple[list[Any], list[int]]:
    """The distributions of tokens that follow each other, and these tokens where they are named."""
    if isinstance(logprobs, list):
        return logprobs, []
    if isinstance(logprobs, dict) and isinstance(logprobs.get("content"), list):
        content = logprobs["content"]
        if not all(isinstance(one, dict) for one in content):
            raise CorpusError(f"{where}: logprobs.content has an item that is no object, expected those of a chat")
        return [one.get("top_logprobs") for one in content], [token_id(one.get("token"), where) for one in content]
    if isinstance(logprobs, dict) and isinstance(logprobs.get("top_logprobs"), list):
        return logprobs["top_logprobs"], [
            token_id(one, where) for one in _list(logprobs.get("tokens") or [], "logprobs.tokens", where)
        ]
    raise CorpusError(
        f"{where}: logprobs is neither a list nor an object with content or top_logprobs, expected one of these: ask "
        "the server for top_logprobs"
    )


def _masked(fields: dict[str, Any], tokens: int, where: str) -> set[int]:
    """Tokens that `labels` leaves out."""
    if "labels" not in fields:
        return set()
    labels = integers(fields["labels"], "labels", where)
    if len(labels) != tokens:
        raise CorpusError(f"{where}: labels has {len(labels)} items, expected {tokens}, as many as input_ids")
    return {i for i, label in enumerate(labels) if label == -100}


def _parsed(text: str, name: str, where: str) -> Any:
    """The corpus gives a string as it is, and everything else as the JSON text of it."""
    try:
        return json.loads(text)
    except ValueError:
        raise CorpusError(f"{where}: {name} is text, expected a list or an object") from None


def _list(value: Any, name: str, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise CorpusError(f"{where}: {name} is no list, expected one with an item for each token")
    return value
