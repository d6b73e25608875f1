"""What several parts use: the teacher, students by size, text.

The teacher is SmolLM2-135M-Instruct (49,152 classes, hidden 576), fetched once by launch/fetch_smollm2.py; the text is
Python's reference documentation.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tests.bench.machine import REPO

__all__ = ["SIZES", "plain_student", "student_config", "teacher_folder", "texts", "use_threads"]

SIZES = {"42M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 9,
                 "num_key_value_heads": 3},
         "7M": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
                "num_key_value_heads": 4}}  # fmt: skip
"""Parameters of a student with the teacher's vocabulary, most of them its embeddings."""


def teacher_folder() -> Path:
    if "KDCACHE_SMOLLM2" in os.environ:
        return Path(os.environ["KDCACHE_SMOLLM2"])
    words = [sys.executable, str(REPO / "launch/fetch_smollm2.py")]
    return Path(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


def student_config(size: str) -> dict[str, Any]:
    return {
        "model_type": "llama", "vocab_size": 49_152, "max_position_embeddings": 1024, "tie_word_embeddings": True,
        **SIZES[size],
    }  # fmt: skip


def plain_student(size: str) -> Any:
    """Of transformers, randomly initialised."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    settings = student_config(size)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings)).train()


def texts() -> list[str]:
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def use_threads() -> int:
    """As many as there are cores, the same on every side."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)
    return cores
