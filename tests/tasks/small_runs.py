"""A task of texts from rows to a table: a small teacher, its cache, and a student by a loop of one's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import own_loop
import torch
import transformers
from classes import word_piece, write_rows

import kdcache
from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.launcher import World

BERT = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT |= {"intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.1}


def make_teacher(folder: Path, **config: Any) -> Any:
    """A BERT of two layers whose outputs differ well from text to text, saved with its tokenizer."""
    tokenizer = word_piece()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    made = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.2,
        **config,
    )
    model = transformers.BertForSequenceClassification(made).eval()
    model.save_pretrained(folder)
    return model


def dump(folder: Path, teacher: Path | str, task: dict[str, Any], rows: list[dict[str, Any]], **sections: Any) -> Any:
    """The cache of a small corpus of rows with a text and a label."""
    corpus = write_rows(folder.with_suffix(".jsonl"), rows)
    settings = {
        "output": str(folder),
        "corpus": {"paths": str(corpus), "format": "jsonl", "label_field": "label", "unit_rows": 16},
        "teacher": teacher if teacher == "none" else {"path": str(teacher), "dtype": "float32"},
        "task": {"max_length": 64, **task},
        "compute": {"threads": 1},
    }
    run_dump(DumpConfig.model_validate(settings | sections), World())
    return kdcache.open_cache(folder)


def train(cache: Any, output: Path, terms: Sequence[dict[str, Any]], steps: int = 60) -> list[float]:
    """The loss of each step of a student that is saved at the end."""
    return own_loop.train(cache, output, BERT, terms, steps=steps, global_batch=16, learning_rate=3e-3)
