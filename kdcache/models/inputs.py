"""Examples -> what a model is fed, the same for teacher and student.

Causal models get no attention mask: padding stands on the right, where nothing before it sees it. Positions are the
model's own, so that models which take no position ids are fed too; but where, with attention "document", a row holds
several documents, position ids restart at each, which is how transformers knows packed documents (its masks keep them
apart under sdpa and eager; flash attention only in a batch of one row, so flatten there). With "full", an encoder's,
every token sees its whole example: padding is masked, and token types are those that the tokenizer gives a user of
transformers, or none.

B examples, L tokens of the longest, P positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "ModelInputs",
    "at_last",
    "counts_from_padding",
    "flat_positions",
    "flattens",
    "max_length",
    "model_inputs",
    "takes_types",
]

Attention = Literal["document", "causal", "full"]
# Models that count positions from their padding token's id on.
_FROM_PADDING = {
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "xmod"),
    *("mpnet", "longformer", "luke", "data2vec-text", "ibert", "esm"),
}


@dataclass(frozen=True)
class ModelInputs:
    """arguments: of a model's forward, each int64 [B, L], or [1, B·L] when flattened; input_ids is always there."""

    arguments: dict[str, Tensor]

    def to(self, device: torch.device | str) -> "ModelInputs":
        return ModelInputs({name: tensor.to(device) for name, tensor in self.arguments.items()})


def model_inputs(
    tokens: Sequence[np.ndarray],
    documents: Sequence[np.ndarray],
    attention: Attention,
    flatten: bool = False,
    *,
    pad: int = 0,
    types: Sequence[np.ndarray] | None = None,
) -> ModelInputs:
    """Rows of tokens, padded on the right with token `pad`, and what tells the model which tokens see each other.

    documents: token counts of the documents in each row, which sum to its tokens. flatten: make one row of them where
    some row is packed, see `flattens`.
    types: the token types of each row, for attention "full"; None for a model that is fed none.
    """
    lengths_B = np.array([len(row) for row in tokens])
    B, L = len(tokens), int(lengths_B.max())
    real_BL = np.arange(L) < lengths_B[:, None]
    input_ids_BL = np.full((B, L), pad, np.int64)
    input_ids_BL[real_BL] = np.concatenate(tokens)
    arrays: dict[str, np.ndarray] = {"input_ids": input_ids_BL}
    shape = (B, L)
    if attention == "full":
        arrays["attention_mask"] = real_BL
        if types is not None:
            arrays["token_type_ids"] = types_BL = np.zeros((B, L), np.int64)
            types_BL[real_BL] = np.concatenate(types)
    elif attention == "document" and any(len(row) > 1 for row in documents):
        pieces = _pieces(documents, L - lengths_B)
        arrays["position_ids"] = np.arange(B * L) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        shape = (1, B * L) if flatten else shape
    return ModelInputs(
        {name: torch.from_numpy(array.astype(np.int64, copy=False)).reshape(shape) for name, array in arrays.items()}
    )


def _pieces(documents: Sequence[np.ndarray], padding_B: np.ndarray) -> np.ndarray:
    """Token counts of each row's documents and of its padding, row after row."""
    return np.concatenate([piece for row, rest in zip(documents, padding_B, strict=True) for piece in (row, [rest])])


def flat_positions(positions: Sequence[np.ndarray], width: int) -> Tensor:
    """Positions of the rows of a batch as int64 [P] indices into its B·L flat tokens; width is L, before flattening."""
    counts_B = [len(row) for row in positions]
    offsets_P = np.repeat(np.arange(len(positions)) * width, counts_B)
    return torch.from_numpy(np.concatenate(positions).astype(np.int64) + offsets_P)


def at_last(values: Tensor, input_ids_BL: Tensor, pad: int | None, flat_P: Tensor) -> Tensor:
    """Rows of [B, L, …] at the last token of each position's example, [P, …], as heads of transformers have it.

    Their last token is the rightmost that is not `pad`, the model's padding token, be it in the text or behind it.
    """
    is_token_BL = input_ids_BL != (-1 if pad is None else pad)
    last_B = (is_token_BL * torch.arange(input_ids_BL.shape[1], device=input_ids_BL.device)).argmax(1)
    examples_P = flat_P // input_ids_BL.shape[1]
    return values[examples_P, last_B[examples_P]]


def max_length(config: Any) -> int | None:
    """The most tokens that a model of this transformers config takes, None for any number.

    The first positions of RoBERTa and its like are not for tokens.
    """
    longest: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest is None or longest < 1:
        return None
    return longest - int(config.pad_token_id) - 1 if counts_from_padding(config) else longest


def counts_from_padding(config: Any) -> bool:
    """Whether this model's first position is its padding token's id + 1, so that it cannot do without one."""
    return config.model_type in _FROM_PADDING


def takes_types(model: Any) -> bool:
    """Whether token types mean something to this model: BERT's do, RoBERTa has a single one.

    GPT-2 takes token_type_ids too, but adds the embeddings of the words with these ids: it is fed none.
    """
    kinds = getattr(model.config, "type_vocab_size", None)
    return model.config.model_type == "xlnet" if kinds is None else kinds > 1


def flattens(model: Any, attention: Attention) -> bool:
    """Whether this model keeps documents apart only when the whole batch is one row: flash attention does."""
    return attention == "document" and "flash" in str(getattr(model.config, "_attn_implementation", ""))
