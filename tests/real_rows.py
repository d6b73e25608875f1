"""Rows of a real teacher's logits, over text that every machine has or that the tasks fetch.

P positions, V classes.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor

__all__ = ["CORPORA", "load_teacher", "token_windows", "windows_of_rows"]


def load_teacher(folder: Path) -> Any:
    """A causal language model in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _topics() -> Iterator[str]:
    """Python's own reference documentation."""
    return (topics[topic] for topic in sorted(topics))


def _docstrings() -> Iterator[str]:
    """Of torch.nn and what is in it: prose about numbers."""
    for source in sorted((Path(torch.__file__).parent / "nn").rglob("*.py")):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""


def _task(name: str) -> Callable[[], Iterator[str]]:
    """The texts of a task, from packages that launch/fetch_tasks.py fetches and checks."""

    def texts() -> Iterator[str]:
        sys.path.insert(0, str(Path(__file__).parents[1] / "launch"))
        from fetch_tasks import SETS

        return (text for text, _ in SETS[name]())

    return texts


CORPORA: dict[str, Callable[[], Iterator[str]]] = {
    "topics": _topics,
    "docstrings": _docstrings,
    "films": _task("sentiment-en"),
    "messages": _task("spam"),
    "shops, Chinese": _task("sentiment-zh"),
}
"""Name -> texts. Records were tuned on the first alone."""


def token_windows(folder: Path, windows: int, length: int, corpus: str = "topics") -> Tensor:
    """int64 [windows, length]: the texts one after the other, evenly spread windows of them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = [token for text in CORPORA[corpus]() for token in tokenizer(text, verbose=False)["input_ids"]]
    found = torch.tensor(tokens).unfold(0, length, length)
    return found[torch.linspace(0, len(found) - 1, windows).long()]


@torch.no_grad()
def windows_of_rows(folder: Path, windows: int, length: int, corpus: str = "topics") -> Iterator[tuple[Tensor, Tensor]]:
    """(tokens [length], logits float32 [length − 1, V] of the next ones) of each window."""
    teacher = load_teacher(folder)
    for tokens in token_windows(folder, windows, length, corpus):
        yield tokens, teacher(tokens[None], use_cache=False).logits[0, :-1]
