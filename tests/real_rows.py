"""Rows of a real teacher's logits over text that every machine has, Python's own reference documentation.

P positions, V classes.
"""

from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor

__all__ = ["load_teacher", "token_windows", "windows_of_rows"]


def load_teacher(folder: Path) -> Any:
    """A causal language model in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def token_windows(folder: Path, windows: int, length: int) -> Tensor:
    """int64 [windows, length]: the topics one after the other, evenly spread windows of them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = [token for topic in sorted(topics) for token in tokenizer(topics[topic], verbose=False)["input_ids"]]
    found = torch.tensor(tokens).unfold(0, length, length)
    return found[torch.linspace(0, len(found) - 1, windows).long()]


@torch.no_grad()
def windows_of_rows(folder: Path, windows: int, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(tokens [length], logits float32 [length − 1, V] of the next ones) of each window."""
    teacher = load_teacher(folder)
    for tokens in token_windows(folder, windows, length):
        yield tokens, teacher(tokens[None], use_cache=False).logits[0, :-1]
