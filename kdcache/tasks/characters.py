"""A tokenizer of single characters, made from a corpus: for text whose words no space parts, such as Chinese.

Every character that occurs twice is a token, the most frequent first, up to 30,000; white space is none; others are
[UNK]. An example is [CLS] text [SEP], a pair [CLS] text [SEP] text [SEP], as BERT's models have it, with token types.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any

__all__ = ["CHARACTERS", "character_tokenizer"]

CHARACTERS = "characters"
"""What `tokenizer` says in a config to ask for one."""

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
MOST, LEAST_OFTEN = 30_000, 2


def character_tokenizer(texts: Iterable[str]) -> Any:
    """A PreTrainedTokenizerFast; the same texts, in any order, give the same one."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(unicodedata.normalize("NFC", text))
    frequent = sorted((-n, c) for c, n in counts.items() if n >= LEAST_OFTEN and not c.isspace())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL.values(), *(c for _, c in frequent[:MOST])])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("."), "isolated")]
    )
    cls, sep = vocabulary["[CLS]"], vocabulary["[SEP]"]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=names, **SPECIAL)
