"""Example: one model input with its supervised places, as a task makes it and a cache keeps it."""

from dataclasses import dataclass

import numpy as np

__all__ = ["Example"]


@dataclass(frozen=True)
class Example:
    """tokens: int64 [L]. positions: int64 [P], ascending indices into tokens. labels: int64 [P], NO_LABEL: not known.

    documents: int64, token counts of the documents packed into the example, in order; they sum to L. continues:
    whether this is a further window of the row of the example before. types: int64 [L], the token types that the
    tokenizer gives of its own; None where it gives none. stands: int64 [P, 2], of an input of the teacher's that is
    none of the cache's examples: the number of the example in its unit and the position in it where each record stands.
    """

    tokens: np.ndarray
    positions: np.ndarray
    labels: np.ndarray
    documents: np.ndarray
    continues: bool = False
    types: np.ndarray | None = None
    stands: np.ndarray | None = None
