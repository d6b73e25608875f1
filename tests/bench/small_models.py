"""A small teacher and smaller students of the source code of Python's standard library, made here.

Text: every module once, in an order and with a tenth held out that a digest of its name decides, joined by the
end-of-text token; a byte-level BPE of 2,048 is trained on it. Teacher: a Llama of .9M parameters, width 128, 3 layers.
Student: .2M, width 64, 1 layer. Both with tied embeddings.

B windows, L tokens of a window, P positions, D hidden width, V classes.
"""

import hashlib
import math
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from kdcache.losses.fused import FusedLoss
from kdcache.losses.metrics import measure
from kdcache.losses.supervision import Supervision
from kdcache.losses.terms import LossTerms
from kdcache.models.wide_linear import WideLinear

__all__ = [
    "CLASSES",
    "Learner",
    "Scores",
    "Text",
    "logits_of",
    "make_student",
    "make_teacher",
    "make_text",
    "modules",
    "scores",
]

CLASSES = 2048
_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__", "turtledemo", "ensurepip"}


@dataclass(frozen=True)
class Text:
    """Windows of L + 1 tokens, int64 [windows, L + 1]: the first for the teacher, the next for the students."""

    train: Tensor
    heldout: Tensor


def make_text(folder: Path, length: int) -> Text:
    """Tokenised once, then kept in the folder."""
    path = folder / f"tokens-{CLASSES}-{length}.pt"
    if not path.exists():
        parts = {name: list(modules(name == "heldout")) for name in ("train", "heldout")}
        tokenizer = _tokenizer(parts["train"])
        streams = {
            name: [token for text in texts for token in [0, *tokenizer.encode(text).ids]]
            for name, texts in parts.items()
        }
        windows = {name: torch.tensor(stream).unfold(0, length + 1, length) for name, stream in streams.items()}
        torch.save(windows, path)
    return Text(**torch.load(path))


def modules(heldout: bool) -> Iterator[str]:
    """Source code of modules, those that are held out or the others."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    digests = {name: hashlib.sha256(name.encode()).digest() for name in paths}
    for name in sorted(paths, key=digests.__getitem__):
        if not _LEFT_OUT & set(name.split("/")) and (digests[name][31] < 26) == heldout:
            yield paths[name].read_text(encoding="utf-8", errors="replace")


def _tokenizer(texts: list[str]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=CLASSES, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _llama(hidden: int, layers: int, seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=CLASSES,
            hidden_size=hidden,
            intermediate_size=hidden * 11 // 4,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
        )
    )


def make_student(seed: int) -> Any:
    return _llama(64, 1, seed)


def make_teacher(folder: Path, windows: Tensor, batch: int) -> Any:
    """Trained on these windows once, in a random order, then kept in the folder.

    In the order of the text, module after module, a teacher ends worse than its students do on labels alone.
    """
    path = folder / f"teacher-{CLASSES}-{len(windows)}.pt"
    teacher = _llama(128, 3, seed=0)
    if path.exists():
        teacher.load_state_dict(torch.load(path))
    else:
        learner = Learner(teacher, LossTerms([_label_term()], CLASSES), len(windows) // batch, rate=1.5e-3)
        order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
        for step, tokens in enumerate(windows[order[: len(windows) // batch * batch]].split(batch)):
            loss = learner.step(tokens, Supervision(tokens[:, 1:].flatten()))
            if step % 100 == 0:
                print(f"teacher, step {step} of {len(windows) // batch}: {loss:.3f}", flush=True)
        torch.save(teacher.state_dict(), path)
    return teacher.eval().requires_grad_(False)


def _label_term() -> Any:
    from kdcache.losses.term import make_term

    return make_term(name="cross_entropy")


class Learner:
    """A model, its optimiser and its schedule: AdamW, a tenth of the steps of warm-up, then a cosine to a tenth."""

    def __init__(self, model: Any, terms: LossTerms, steps: int, rate: float) -> None:
        self.model, self.terms = model, terms
        model.lm_head.__class__ = WideLinear
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
        warmup = max(1, steps // 10)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer,
            lambda step: min((step + 1) / warmup, 0.55 + 0.45 * math.cos(math.pi * min(1.0, step / steps))),
        )

    def step(self, tokens: Tensor, supervision: Supervision) -> float:
        """One step on windows [B, L + 1]; the loss, a mean over positions."""
        hidden = self.model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
        loss, _ = self.model.lm_head(hidden, task=FusedLoss(self.terms, supervision))
        loss = loss / supervision.num_positions
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._schedule.step()
        return loss.item()


@torch.no_grad()
def logits_of(model: Any, windows: Tensor) -> Tensor:
    """float32 [P, V] of windows [B, L + 1]."""
    return torch.cat(
        [model(input_ids=tokens[:, :-1], use_cache=False).logits.flatten(0, 1) for tokens in windows.split(16)]
    )


@dataclass(frozen=True)
class Scores:
    """On held-out text. loss: mean −log q(label), nats. ece: expected calibration error of the likeliest class. kl:
    temperature -> mean KL to the teacher at it, nats.
    """

    loss: float
    ece: float
    kl: dict[float, float]


def scores(logits_PV: Tensor, supervision: Supervision, temperatures: Sequence[float]) -> Scores:
    means = {t: measure(logits_PV, supervision, temperature=t).means() for t in temperatures}
    ece = multiclass_calibration_error(logits_PV.softmax(-1), supervision.labels_P, CLASSES)
    return Scores(means[temperatures[0]]["label_nll"], ece.item(), {t: of_t["kl"] for t, of_t in means.items()})
