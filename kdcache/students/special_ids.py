"""Special ids: which tokens a student's config calls start, end, padding and the like.

A model type's config defaults to the ids of one published tokenizer (Llama's end of text is 2, GPT-2's 50256). With
another tokenizer they are ordinary tokens or none, and a saved model then generates past the end of its texts. The ids
are the tokenizer's to say: a student made of student.config has them unless the user wrote the key. A folder keeps its
own as far as they are special tokens of the cache's tokenizer, such as a list of several ends.

A config's padding id becomes an embedding's padding_idx, whose row gets no gradient and, in a fresh model, is 0 for
ever. No row that may be read is treated so. A language model's config names a padding token only where it is that
alone, and its embedding has no padding_idx in training: padding stands to the right of everything supervised, so its
row never gets a gradient anyway. The generation config always has one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from kdcache.errors import ConfigError
from kdcache.models.inputs import counts_from_padding
from kdcache.progress import say
from kdcache.tasks.tokenizer import padding_id

__all__ = ["config_ids", "free_padding", "mend_ids", "set_generation_ids"]

OWN = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
BORROWED = ("decoder_start", "forced_bos", "forced_eos")
"""Ids that are one of the others: which, the model type's defaults tell."""
INSTEAD = {"bos": "cls", "eos": "sep"}
"""What stands around a classifier's text where its tokenizer has no start and no end of text."""


def config_ids(
    defaults: Any, given: Mapping[str, Any], tokenizer: Any | None, vocab_size: int, *, generates: bool
) -> dict[str, Any]:
    """The ids that a fresh config takes besides what the user gave.

    defaults: a config of the type as it comes. tokenizer: None where the cache has none; then a language model names
    no id, and a classifier keeps what it has below vocab_size. Raises ConfigError for an id in `given` that is none.
    """
    _check_given(given, tokenizer, vocab_size)
    found: dict[str, Any] = {}
    for key, default in _ids_of(defaults):
        if tokenizer is not None:
            found[key] = _of_tokenizer(key, defaults, tokenizer, generates)
        else:
            found[key] = None if generates or not _all_below(default, vocab_size) else default
    return {key: value for key, value in found.items() if key not in given}


def mend_ids(student: Any, tokenizer: Any, folder: str) -> None:
    """Give a loaded student the tokenizer's ids where its own are none of the special tokens; says which, in a line."""
    generates = student.can_generate()
    holders = [student.config, *([student.generation_config] if generates else [])]
    changes: dict[str, None] = {}
    for holder in holders:
        for key, own in _ids_of(holder):
            new = _mended(key, own, student.config, tokenizer, generates)
            if new != own:
                changes[f"{key} {_spoken(own)} becomes {_spoken(new)}"] = None
                setattr(holder, key, new)
    if changes:
        say(f"{folder} names special tokens that its tokenizer does not: {', '.join(changes)}")


def set_generation_ids(student: Any, tokenizer: Any | None) -> None:
    """A generating model's generation config follows its config, where it names nothing itself; it has a padding id."""
    if not student.can_generate():
        return
    generation = student.generation_config
    for key, value in _ids_of(student.config):
        if hasattr(generation, key) and getattr(generation, key) is None:
            setattr(generation, key, value)
    if generation.pad_token_id is None:
        end = generation.eos_token_id
        generation.pad_token_id = end[0] if isinstance(end, list) else end
        if tokenizer is not None:
            generation.pad_token_id = padding_id(tokenizer)
    generation._from_model_config = False


@torch.no_grad()
def free_padding(student: Any, *, fresh: bool) -> None:
    """Token embeddings without a padding_idx. fresh: a row of zeros there is drawn like the others."""
    table = student.get_input_embeddings()
    if not isinstance(table, nn.Embedding):
        return
    for module in student.modules():
        if not isinstance(module, nn.Embedding) or module.num_embeddings != table.num_embeddings:
            continue
        row, module.padding_idx = module.padding_idx, None
        if fresh and row is not None and not module.weight[row].any():
            module.weight[row].normal_(std=module.weight.std().item())


def _ids_of(config: Any) -> Iterator[tuple[str, Any]]:
    """Those that a config has, with their values."""
    values = config.to_dict()
    for key in (f"{name}_token_id" for name in (*OWN, *BORROWED)):
        if key in values or (key == "decoder_start_token_id" and getattr(config, "is_encoder_decoder", False)):
            yield key, values.get(key)


def _of_tokenizer(key: str, config: Any, tokenizer: Any, generates: bool) -> Any:
    """The tokenizer's id for a key; None where it has none. config: tells which other id a borrowed one is."""
    name = key.removesuffix("_token_id")
    if name in BORROWED:
        return _of_tokenizer(f"{_lender(name, config)}_token_id", config, tokenizer, False)
    if name != "pad":
        found = getattr(tokenizer, key, None)
        if found is None and not generates and name in INSTEAD and getattr(type(config)(), key, None) is not None:
            found = getattr(tokenizer, f"{INSTEAD[name]}_token_id", None)
        return found
    if not generates or counts_from_padding(config):
        return padding_id(tokenizer)
    own = tokenizer.pad_token_id
    others = {getattr(tokenizer, f"{other}_token_id", None) for other in OWN if other != "pad"}
    return None if own in others else own


def _lender(name: str, config: Any) -> str:
    """BART starts its decoder with the end of text, T5 with padding."""
    if name.startswith("forced_"):
        return name.removeprefix("forced_")
    start = getattr(type(config)(), f"{name}_token_id", None)
    defaults = dict(_ids_of(type(config)()))
    same = [
        other for other in ("eos", "bos", "pad") if start is not None and defaults.get(f"{other}_token_id") == start
    ]
    return same[0] if same else "pad"


def _mended(key: str, own: Any, config: Any, tokenizer: Any, generates: bool) -> Any:
    theirs = _of_tokenizer(key, config, tokenizer, generates)
    if own is None:
        needed = key == "eos_token_id" or (key == "pad_token_id" and not generates)
        return theirs if needed else None
    ids = own if isinstance(own, list) else [own]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    if key != "eos_token_id":
        return own if own in special or own == theirs else theirs
    if theirs is None or (theirs in ids and {*ids} <= {*tokenizer.get_vocab().values()}):
        return own if {*ids} <= {*tokenizer.get_vocab().values()} else None
    ends = [theirs, *(i for i in ids if i in special and i != theirs)]
    return ends if len(ends) > 1 else theirs


def _check_given(given: Mapping[str, Any], tokenizer: Any | None, vocab_size: int) -> None:
    known = None if tokenizer is None else {*tokenizer.get_vocab().values()}
    for key in (f"{name}_token_id" for name in (*OWN, *BORROWED)):
        value = given.get(key)
        for i in value if isinstance(value, list) else [] if value is None else [value]:
            if i not in known if known is not None else not _all_below(i, vocab_size):
                where = f"one of the {vocab_size} classes" if known is None else f"a token of the cache's {len(known)}"
                raise ConfigError(f"got student.config.{key} {i}, expected {where}; or leave it to the tokenizer")


def _all_below(ids: Any, vocab_size: int) -> bool:
    return all(i is None or 0 <= i < vocab_size for i in (ids if isinstance(ids, list) else [ids]))


def _spoken(ids: Any) -> str:
    return "none" if ids is None else str(ids)
