"""Conversations as a corpus has them, and what of a document is supervised."""

import json

import numpy as np
import pyarrow as pa


def where(row: int) -> str:
    return f"a.jsonl:{row + 1}"


def chat(*turns: str, system: str | None = None) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    start = [] if system is None else [{"role": "system", "content": system}]
    return start + [{"role": roles[n % 2], "content": turn} for n, turn in enumerate(turns)]


def rows(*chats: object) -> pa.Table:
    return pa.table({"messages": [json.dumps(chat) for chat in chats]})


def spoken(tokenizer, document) -> list[str]:
    """The learnable tokens as text, one string for each run of them."""
    tokens, learnable = document
    edges = np.flatnonzero(np.diff(learnable.astype(int), prepend=0, append=0)).reshape(-1, 2)
    return [tokenizer.decode(tokens[start:stop]) for start, stop in edges]
