"""Small real things of classification: texts with a mood, sentences with names in them, teachers that classify."""

import copy
import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from helpers import WORDS

MOODS = {"bright": ["sunny", "warm", "merry", "gold"], "dark": ["gloomy", "cold", "bitter", "ash"]}
TAGS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
NAMES = {"LOC": [["north", "river"], ["york"]], "PER": [["ada", "byron"], ["turing"]]}


def moods(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Rows of a text and its label: 4 to 14 words, one to three of which give it away."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        label = rng.choice([*MOODS])
        words = rng.choices(WORDS, k=rng.randint(3, 11)) + rng.choices(MOODS[label], k=rng.randint(1, 3))
        rng.shuffle(words)
        rows.append({"text": " ".join(words), "label": label})
    return rows


def tagged(count: int, seed: int = 0, longest: int = 12) -> list[tuple[list[str], list[str]]]:
    """Words and their BIO tags; names among other words."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        words: list[str] = []
        tags: list[str] = []
        while len(words) < rng.randint(3, longest):
            kind = rng.choice(["LOC", "PER", None, None])
            if kind is None:
                words.append(rng.choice(WORDS))
                tags.append("O")
            else:
                name = rng.choice(NAMES[kind])
                words += name
                tags += [f"B-{kind}", *[f"I-{kind}"] * (len(name) - 1)]
        rows.append((words, tags))
    return rows


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_conll(path: Path, rows: list[tuple[list[str], list[str]]]) -> Path:
    sentences = ("".join(f"{word}\t{tag}\n" for word, tag in zip(*row, strict=True)) for row in rows)
    path.write_text("\n".join(sentences), encoding="utf-8")
    return path


@cache
def word_piece() -> Any:
    """BERT's kind of tokenizer: words in pieces, [CLS] … [SEP] …, segments. Training it twice gives two."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    backend.train_from_iterator(
        _texts(), trainers.WordPieceTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


@cache
def byte_level(prefix: bool = False) -> Any:
    """RoBERTa's kind of tokenizer: byte-level BPE, <s> … </s>. prefix: a space is put before the text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        _texts(),
        trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, special_tokens=special, show_progress=False),
    )
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=prefix)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


@cache
def unigram() -> Any:
    """XLM-RoBERTa's and T5's kind of tokenizer: unigram over "▁" for spaces, one put before the text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    backend.train_from_iterator(
        _texts(),
        trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


@cache
def metaspace() -> Any:
    """Llama's kind of tokenizer: BPE over "▁" for spaces, one put before the first word alone, <s> in front."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(
        (text.replace(" ", " ▁") for text in _texts()),
        trainers.BpeTrainer(vocab_size=450, special_tokens=special, show_progress=False),
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", pad_token="</s>", eos_token="</s>", unk_token="<unk>"
    )


@cache
def characters() -> Any:
    from kdcache.tasks.characters import character_tokenizer

    return character_tokenizer(_texts())


def _texts() -> list[str]:
    return [row["text"] for row in moods(300)] + [" ".join(words) for words, _ in tagged(200)]


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "byte_level": byte_level,
    "byte_level_prefix": lambda: byte_level(True),
    "unigram": unigram,
    "metaspace": metaspace,
    "word_piece": word_piece,
    "characters": characters,
}
"""The kinds that are met. Train none of them further: tests share them."""


def declared(pair: str, single: str = "[CLS]:0 $A:0 [SEP]:0") -> Any:
    """`word_piece`, declaring the token types that its post-processor makes."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    backend = copy.deepcopy(word_piece().backend_tokenizer)
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")},
    )


DECLARED: dict[str, Callable[[], Any]] = {
    "word_piece_declared": lambda: declared("[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"),
    "xlnet": lambda: declared("$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2", "$A:0 [SEP]:0 [CLS]:2"),
}


def make_classifier(
    folder: Path, task: str, names: tuple[str, ...], *, seed: int = 0, tokenizer: Any = None, positions: int = 64
) -> None:
    """A BERT of 2 layers whose logits are far from uniform, with its tokenizer."""
    import torch
    import transformers

    tokenizer = tokenizer or word_piece()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=positions,
        initializer_range=0.2,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    kinds = {
        "sequence_classification": transformers.BertForSequenceClassification,
        "token_classification": transformers.BertForTokenClassification,
    }
    kinds[task](config).save_pretrained(folder)


def teacher_scores(cache: Any) -> dict[str, float]:
    """What the teacher of a classification's cache scores, from its records alone."""
    from kdcache.students.scoring import teacher_predictions
    from kdcache.tasks import task_of

    header = cache.manifest.header
    return task_of(header.task).figures({}, teacher_predictions(cache), header.class_names)
