"""Documents that were tokenised elsewhere: a column of token ids, and maybe one that says which of them are learnt.

The ids are taken as they are: no token is put before, between or behind them. Only a wrong tokenizer's ids that happen
to be small enough cannot be told from right ones: look at the text of some examples in `kdcache inspect`.
"""

from typing import TYPE_CHECKING

import numpy as np

from kdcache.corpus.column import Column
from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import RowError
from kdcache.tasks.packing import Document
from kdcache.tasks.task import Where

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["id_columns", "id_documents"]


def id_columns(corpus: CorpusConfig) -> tuple[Column, ...]:
    """The columns of such a corpus; corpus.tokens_field is set."""
    assert corpus.tokens_field is not None
    ids = Column(corpus.tokens_field, "tokens_field", kind="integers")
    if corpus.loss_mask_field is None:
        return (ids,)
    return (ids, Column(corpus.loss_mask_field, "loss_mask_field", kind="integers"))


def id_documents(table: "pa.Table", corpus: CorpusConfig, vocab_size: int, where: Where) -> list[Document]:
    """The document of each row.

    Args:
        table: Has the columns of `id_columns`.
        corpus: Names them.
        vocab_size: One above the highest id that the tokenizer gives.
        where: Places of rows, for messages.

    Raises:
        RowError: An id is none of the tokenizer's, or a mask is not as long as its tokens, or has other than 0 and 1.
    """
    ids, *masks = (_split(table[column.name]) for column in id_columns(corpus))
    found = []
    for row, tokens in enumerate(ids):
        if len(tokens) and not (tokens.min() >= 0 and tokens.max() < vocab_size):
            wrong = tokens[(tokens < 0) | (tokens >= vocab_size)][0]
            raise RowError(
                where,
                row,
                f": {corpus.tokens_field} has the id {wrong}, expected 0 to {vocab_size - 1}, the tokenizer's: "
                "name the tokenizer that made them in `tokenizer`, or leave such rows out",
            )
        found.append((tokens, _learnable(masks[0][row], tokens, row, corpus, where) if masks else _all(tokens)))
    return found


def _split(column: "pa.ChunkedArray") -> list[np.ndarray]:
    """The integers of each row, int64."""
    import pyarrow.compute as pc

    values = pc.list_flatten(column).to_numpy()
    return np.split(values, np.cumsum(pc.list_value_length(column).to_numpy())[:-1])


def _all(tokens: np.ndarray) -> np.ndarray:
    return np.ones(len(tokens), bool)


def _learnable(mask: np.ndarray, tokens: np.ndarray, row: int, corpus: CorpusConfig, where: Where) -> np.ndarray:
    field = corpus.loss_mask_field
    if len(mask) != len(tokens):
        raise RowError(where, row, f": {field} has {len(mask)} items, expected {len(tokens)}, as many as tokens")
    if len(mask) and not np.isin(mask, (0, 1)).all():
        wrong = mask[~np.isin(mask, (0, 1))][0]
        raise RowError(where, row, f": {field} has {wrong}, expected 1 for a token that is learnt and 0 for others")
    return mask == 1
