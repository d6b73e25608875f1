"""What a limit of tokens does for a teacher's pass over ragged text: the same examples in batches of 8, and by tokens.

    PYTHONPATH=tests python tests/bench/ragged.py TEACHER [--batch-tokens 2048] [--units 2] [--rounds 3]

TEACHER is a folder, such as `python launch/fetch_smollm2.py` prints, or "small" for a random Llama of 4 layers of width
128. Three kinds of text that every machine has, Python's own reference documentation: whole pages of it as documents,
paragraphs of it as questions with their answers, lines of it as what a classification reads. Of each kind so many units
of 256 examples go through `Teacher.rows` as a dump feeds them, without records: both ways in turn, CPU time of one
thread, medians. Padding is what a pass holds beside the examples' tokens, in shares of these.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from real_rows import load_teacher

from kdcache.dump.batches import longest_first
from kdcache.dump.teacher import Teacher
from kdcache.tasks import Example

LONGEST = 256
UNIT = 256


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("teacher")
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[2048])
    for name, default in {"units": 1, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher = open_teacher(options.teacher)
    print(f"{'text':<16}{'batches':<14}{'passes':>7}{'padding':>9}{'CPU s':>8}{'of 8 each':>11}")
    for name, lengths in texts().items():
        ways = {"8 examples": None} | {f"{tokens:,} tokens": tokens for tokens in options.batch_tokens}
        compare(name, [example(length) for length in lengths[: options.units * UNIT]], ways, teacher, options.rounds)


def open_teacher(name: str) -> Teacher:
    if name != "small":
        model = load_teacher(Path(name))
    else:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=4096, hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4
        )
        model = LlamaForCausalLM(config).eval()
    return Teacher(model, torch.device("cpu"), model.config.vocab_size, 512)


def texts() -> dict[str, list[int]]:
    """Tokens of each example, four characters for one, in an order by chance."""
    pages = [len(text) for text in topics.values()]
    paragraphs = [len(part) for text in topics.values() for part in text.split("\n\n")]
    lines = [len(line) for text in topics.values() for line in text.splitlines() if line.strip()]
    rng = np.random.default_rng(0)
    chats = [sum(rng.choice(paragraphs, 4)) for _ in range(2048)]
    found = {"documents": [*pages] * 4, "chats": chats, "classification": lines}
    return {
        name: np.clip(rng.permutation(sizes) // 4, 4, LONGEST).astype(int).tolist() for name, sizes in found.items()
    }


def example(length: int) -> Example:
    tokens = np.random.default_rng(length).integers(0, 4096, length)
    return Example(tokens, np.arange(length - 1), tokens[1:], np.array([length]))


def compare(name: str, examples: Sequence[Example], ways: dict[str, int | None], teacher: Teacher, rounds: int) -> None:
    units = [examples[start : start + UNIT] for start in range(0, len(examples), UNIT)]
    batches = {way: [batch for unit in units for batch in cut(unit, tokens)] for way, tokens in ways.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, parts in batches.items():
            started = time.process_time()
            for part in parts:
                for inputs, flat_P in teacher.feeding.passes(part):
                    for _rows in teacher.rows(inputs, flat_P):
                        pass
            seconds[way].append(time.process_time() - started)
    tokens, first = sum(len(e.tokens) for e in examples), statistics.median(seconds["8 examples"])
    for way, parts in batches.items():
        padded = sum(len(part) * max(len(e.tokens) for e in part) for part in parts)
        took = statistics.median(seconds[way])
        print(f"{name:<16}{way:<14}{len(parts):>7}{padded / tokens - 1:>9.1%}{took:>8.2f}{took / first:>11.2f}")


def cut(unit: Sequence[Example], batch_tokens: int | None) -> list[list[Example]]:
    lengths = [len(e.tokens) for e in unit]
    if batch_tokens is None:
        order = np.argsort([-length for length in lengths], kind="stable")
        found = [order[start : start + 8] for start in range(0, len(order), 8)]
    else:
        found = longest_first(lengths, batch_tokens)
    return [[unit[i] for i in batch] for batch in found]


if __name__ == "__main__":
    main()
