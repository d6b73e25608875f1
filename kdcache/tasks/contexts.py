"""What a document is to a teacher that sees more than its student, and whether both have the same tokens to learn.

L tokens, P positions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcache.errors import RowError
from kdcache.tasks.chat import Chats
from kdcache.tasks.packing import Document
from kdcache.tasks.task import Where
from kdcache.tasks.windows import Surroundings

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Before", "Context", "Told", "learnt", "prefix_tokens"]


def prefix_tokens(tokenizer: Any, prefix: str) -> np.ndarray:
    """The tokens of a text that others follow, int64 [L], with what the tokenizer puts before a text."""
    ids = tokenizer(prefix, add_special_tokens=False, verbose=False)["input_ids"]
    return np.concatenate([Surroundings.of(tokenizer).prefix, np.asarray(ids, np.int64)])


class Context(ABC):
    """What a document is to the teacher.

    whole: whether an input begins with the document, however little of it a piece has.
    """

    whole: bool = False

    @abstractmethod
    def read(self, table: "pa.Table", by_row: Sequence[Sequence[Document]], where: Where) -> None:
        """Read some rows, and compare them with what they are to the student.

        Raises:
            RowError: What is learnt is not the same tokens to both.
        """

    @abstractmethod
    def input(
        self, key: tuple[int, int], tokens_L: np.ndarray, labels_P: np.ndarray, offset: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The teacher's tokens for a piece of a document, and where the student's labels stand in them.

        Args:
            key: The row, and the number of the document in it.
            tokens_L: Of the piece.
            labels_P: Where in the piece the labels stand.
            offset: Where in the document the piece begins.
        """


class Before(Context):
    """The tokens of a prefix before what the student sees.

    texts: the column of texts, where the corpus has them. ended: puts the end of a text behind its tokens.
    """

    def __init__(self, tokenizer: Any, prefix: str, texts: str | None, ended: Callable[[list[int]], list[int]]) -> None:
        self._tokenizer, self._prefix, self._texts, self._ended = tokenizer, prefix, texts, ended
        self._before = Surroundings.of(tokenizer).prefix
        self._ids = prefix_tokens(tokenizer, prefix)

    def read(self, table: "pa.Table", by_row: Sequence[Sequence[Document]], where: Where) -> None:
        if self._texts is None:
            return
        texts = [text or "" for text in table[self._texts].to_pylist()]
        joined = self._tokenizer([self._prefix + text for text in texts], return_attention_mask=False, verbose=False)
        for row, (text, ids) in enumerate(zip(texts, joined["input_ids"], strict=True)):
            (document,) = by_row[row]
            expected, _ = self.input((row, 0), document[0], np.zeros(0, np.int64), 0)
            got = np.asarray(self._ended(ids), np.int64)
            if text and not np.array_equal(got, expected):
                raise self._other(got, expected, row, where)

    def input(
        self, key: tuple[int, int], tokens_L: np.ndarray, labels_P: np.ndarray, offset: int
    ) -> tuple[np.ndarray, np.ndarray]:
        own = len(self._before)
        cut = own if own and np.array_equal(tokens_L[:own], self._before) else 0
        at_P = np.where(labels_P < cut, labels_P, labels_P - cut + len(self._ids))
        return np.concatenate([self._ids, tokens_L[cut:]]), at_P

    def _other(self, got: np.ndarray, expected: np.ndarray, row: int, where: Where) -> RowError:
        count = min(len(got), len(expected))
        at = next(iter(np.flatnonzero(got[:count] != expected[:count])), count)
        return RowError(
            where,
            row,
            f": behind teacher.prefix its text is cut into other tokens, {_shown(self._tokenizer, got[at : at + 3])} "
            f"where the student has {_shown(self._tokenizer, expected[at : at + 3])}, expected the same ones: end the "
            "prefix with a line break or without a space, or leave such rows out",
        )


class Told(Context):
    """The conversation that the teacher is told."""

    whole = True

    def __init__(self, chats: Chats, tokenizer: Any) -> None:
        self._chats, self._tokenizer = chats, tokenizer
        self._told: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def read(self, table: "pa.Table", by_row: Sequence[Sequence[Document]], where: Where) -> None:
        self._told = {}
        told, _ = self._chats.by_row(table, where)
        for row, (theirs, ours) in enumerate(zip(told, by_row, strict=True)):
            for number, document in enumerate(ours):
                place = len(theirs) - len(ours) + number
                if place < 0:
                    raise self._other("fewer turns of the assistant's", row, where)
                labels, at = learnt(document), learnt(theirs[place])
                at = at[max(len(at) - len(labels), 0) :]
                said, heard = document[0][labels], theirs[place][0][at]
                if not np.array_equal(said, heard):
                    raise self._other(self._difference(said, heard), row, where)
                self._told[row, number] = theirs[place][0], labels, at

    def input(
        self, key: tuple[int, int], tokens_L: np.ndarray, labels_P: np.ndarray, offset: int
    ) -> tuple[np.ndarray, np.ndarray]:
        tokens, labels, at = self._told[key]
        return tokens, at[np.searchsorted(labels, labels_P + offset)]

    def _difference(self, said: np.ndarray, heard: np.ndarray) -> str:
        count = min(len(said), len(heard))
        differing = np.flatnonzero(said[len(said) - count :] != heard[len(heard) - count :])
        if not len(differing):
            return "fewer words of the assistant's"
        first = int(differing[0])
        shown = [_shown(self._tokenizer, ids[len(ids) - count + first :][:6]) for ids in (heard, said)]
        return f"{shown[0]} where the student is to learn {shown[1]}"

    def _other(self, got: str, row: int, where: Where) -> RowError:
        return RowError(
            where,
            row,
            f": the conversation that the teacher is told has {got}, expected the same tokens at the end of both: mend "
            "it, or leave such rows out",
        )


def learnt(document: Document) -> np.ndarray:
    """The places of a document's tokens that are learnt, but for the first token, which nothing predicts."""
    return np.flatnonzero(document[1][1:]) + 1


def _shown(tokenizer: Any, ids: np.ndarray) -> str:
    return repr(tokenizer.decode(ids.tolist())) if len(ids) else "nothing"
