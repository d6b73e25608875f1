"""Small real things to test with: text, a tokenizer, a model, the command line."""

import json
import os
import random
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = [
    "cache",
    "teacher",
    "student",
    "logits",
    "position",
    "temperature",
    "shard",
    "record",
    "entropy",
    "sample",
    "exact",
    "tail",
    "curve",
    "lane",
    "window",
    "token",
    "corpus",
    "example",
    "class",
    "label",
    "mass",
    "batch",
    "rank",
    "unit",
    "commit",
    "digest",
    "manifest",
    "stream",
]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Documents of 3 to 60 words."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 60))) + "." for _ in range(count)]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def make_tokenizer(folder: Path) -> None:
    """A byte-level BPE of 320 ids with an end-of-text token and a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(sentences(200), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)


def make_model(
    folder: Path, *, vocab_size: int = 320, layers: int = 2, hidden: int = 32, seed: int = 0, positions: int = 128
) -> None:
    """A randomly initialised Llama whose logits are far from uniform."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        tie_word_embeddings=False,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def files_of(cache: Path) -> dict[str, bytes]:
    """Every file of a cache but the scratch folder of an unfinished dump."""
    paths = (path for path in cache.rglob("*") if path.is_file() and ".kdcache" not in path.parts)
    names = {path.relative_to(cache).as_posix(): path for path in paths}
    return {name: path.read_bytes() for name, path in sorted(names.items()) if not name.startswith("work/")}


Run = Callable[..., tuple[int, str, str]]
"""The command line in this process, the fixture `run`: run("verify", path) -> (status, standard output, error)."""


def next_typed(message: str) -> list[str]:
    """The arguments of the command that the last line of a message tells, for `run`."""
    found = re.search(r"\brun (kdcache .+?)(, or .*|\))?$", message.strip())
    assert found, message
    return shlex.split(found[1])[1:]


def kdcache(*arguments: object, timeout: float = 300, **options: object) -> subprocess.CompletedProcess[str]:
    """The command line as a user runs it."""
    command = [sys.executable, "-m", "kdcache", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)  # type: ignore[call-overload]


def fork_rank(config: Any, rank: Any, **named: Any) -> int:
    """Start a rank of a dump as a child process, which need not import anything; its pid."""
    from kdcache.dump.run import run_dump

    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run_dump(config, rank, **named)
            status = 0
        finally:
            os._exit(status)
    return pid
