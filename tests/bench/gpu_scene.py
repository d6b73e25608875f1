"""A teacher, a student and a corpus of a GPU's size, made on the spot: no model hub is needed.

Weights and words are random, which is right for speed. The teacher's logits are made as spread as a language model's,
so that a default record has as many entries: about 14 per position.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["FULL", "TINY", "Size", "make_corpus", "make_teacher"]


@dataclass(frozen=True)
class Size:
    """teacher, student: configs of Llamas. batch: windows of `length` tokens in a training step. units: of the dump,
    each of `unit_rows` rows of a window. loss: positions of the loss alone.
    """

    classes: int
    length: int
    batch: int
    units: int
    unit_rows: int
    loss: int
    teacher: dict[str, int]
    student: dict[str, int]

    @property
    def tokens(self) -> int:
        return self.units * self.unit_rows * self.length

    def parameters(self, which: str) -> int:
        """Of the teacher or the student."""
        from transformers import AutoConfig, AutoModelForCausalLM

        settings = self.config(which)
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config).num_parameters()

    def config(self, which: str) -> dict[str, Any]:
        own: dict[str, int] = getattr(self, which)
        return {
            "model_type": "llama", "vocab_size": self.classes, "max_position_embeddings": self.length,
            "tie_word_embeddings": which == "student", "pad_token_id": None, "bos_token_id": None, "eos_token_id": 0,
            **own,
        }  # fmt: skip


def _llama(hidden: int, inner: int, layers: int, heads: int, shared: int) -> dict[str, int]:
    return {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": shared,
    }  # fmt: skip


FULL = Size(
    49_152, 1024, 16, 16, 64, 16_384, teacher=_llama(2048, 8192, 16, 32, 8), student=_llama(768, 3072, 12, 12, 4)
)
"""A teacher of 1.2 B parameters, a student of 140 M."""
TINY = Size(600, 32, 4, 4, 8, 128, teacher=_llama(64, 128, 2, 4, 2), student=_llama(32, 64, 2, 4, 2))

SPREAD = 5.1
"""Standard deviation of a row of logits."""


def make_teacher(folder: Path, size: Size, device: torch.device) -> Path:
    """Model, in bfloat16, and tokenizer, which knows a word for each class."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    settings = size.config("teacher")
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        head_VD = model.lm_head.weight
        head_VD *= SPREAD / (head_VD.float().std() * head_VD.shape[1] ** 0.5)
    model.save_pretrained(folder)
    words = {"<end>": 0, **{f"w{i}": i for i in range(1, size.classes)}}
    plain = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>").save_pretrained(folder)
    return folder


def make_corpus(path: Path, size: Size) -> Path:
    """A row for each window: a window less the end of its text."""
    rng = random.Random(0)
    with path.open("w") as file:
        for _ in range(size.units * size.unit_rows):
            words = rng.choices(range(1, size.classes), k=size.length - 1)
            file.write(json.dumps({"text": " ".join(f"w{word}" for word in words)}) + "\n")
    return path
