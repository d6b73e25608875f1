"""Examples -> what a model is fed, the same for teacher and student.

Causal models get no attention mask. With attention "document" position ids restart at each document, which is how
transformers knows packed documents (its masks keep them apart under sdpa and eager; flash attention only in a batch of
one row, so flatten there). Padding on the right is one more document; nothing before it sees it. With "causal"
positions run on. With "full", an encoder's, every token sees its whole example: padding is masked, positions are the
model's own, and token types are those that the tokenizer gives a user of transformers, or none.

B examples, L tokens of the longest, P positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import KdcacheError
from kdcache.tasks.modes import evaluating

__all__ = [
    "ModelInputs",
    "at_last",
    "check_packing",
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

    documents: token counts of the documents in each row, which sum to its tokens. flatten: see `flattens`.
    types: the token types of each row, for attention "full"; None for a model that is fed none.
    """
    lengths_B = np.array([len(row) for row in tokens])
    B, L = len(tokens), int(lengths_B.max())
    real_BL = np.arange(L) < lengths_B[:, None]
    input_ids_BL = np.full((B, L), pad, np.int64)
    input_ids_BL[real_BL] = np.concatenate(tokens)
    arrays: dict[str, np.ndarray] = {"input_ids": input_ids_BL}
    if attention == "full":
        arrays["attention_mask"] = real_BL
        if types is not None:
            arrays["token_type_ids"] = types_BL = np.zeros((B, L), np.int64)
            types_BL[real_BL] = np.concatenate(types)
    elif attention == "document":
        pieces = _pieces(documents, L - lengths_B)
        arrays["position_ids"] = np.arange(B * L) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    else:
        arrays["position_ids"] = np.tile(np.arange(L), (B, 1))
    shape = (1, B * L) if flatten else (B, L)
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


def at_last(values: Tensor, mask_BL: Tensor, flat_P: Tensor) -> Tensor:
    """Rows of [B, L, …] at the last token of each position's example, [P, …]. mask_BL: the attention mask."""
    examples_P = flat_P // mask_BL.shape[1]
    return values[examples_P, mask_BL.sum(1)[examples_P] - 1]


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


@torch.no_grad()
def check_packing(model: Any, attention: Attention, flatten: bool = False) -> None:
    """Two packed rows of two tiny documents through the model, against each document alone.

    flatten as given to `model_inputs`. What the second document may differ by is a quarter of what it differs by when
    the first is let in, or rounding. Raises KdcacheError when a model sees through the border, as recurrent ones do.
    """
    if attention != "document":
        return
    embeddings = model.get_input_embeddings().weight
    ids = (7 * np.arange(11) + 3) % model.config.get_text_config().vocab_size
    first, second = ids[:5], ids[5:]

    def logits(tokens: list[np.ndarray], documents: list[list[int]]) -> Tensor:
        inputs = model_inputs(tokens, [np.array(row) for row in documents], attention, flatten).to(embeddings.device)
        out = model(**inputs.arguments, use_cache=False)
        return out.logits.float().reshape(len(tokens), -1, out.logits.shape[-1])

    try:
        with evaluating(model):
            alone = logits([second], [[6]])[0]
            packed = logits([np.concatenate([first, second]), np.concatenate([second, first])], [[5, 6], [6, 5]])
            joined = logits([np.concatenate([first, second])], [[11]])[0, 5:]
        error = max((packed[0, 5:] - alone).abs().max().item(), (packed[1, :6] - alone).abs().max().item())
    except TypeError as fault:
        raise _mixes(model, f"it takes no position_ids: {fault}") from fault
    leak = (joined - alone).abs().max().item()
    rounding = (1e-4 if embeddings.dtype == torch.float32 else 2e-2) * alone.abs().max().item()
    if error > max(leak / 4, rounding):
        raise _mixes(model, f"a packed document's logits are off by {error:.2g}, expected at most {rounding:.2g}")


def _mixes(model: Any, why: str) -> KdcacheError:
    hint = "set task.attention: causal or task.packing: documents"
    if flattens(model, "document"):
        hint += ", or attention_implementation: sdpa"
    return KdcacheError(f"{type(model).__name__} does not keep packed documents apart ({why}); {hint}")
