"""What a teacher reads that sees more than its student: context and privileged distillation.

The student's examples are what they are without it. For each document in each of them the teacher has an input of its
own, which no other document is in, and the records are those of the tokens that both have:

texts and token ids  the tokens of the prefix, and then what the student sees
chats                the conversation that the teacher is told, from its beginning: that of its own column or that of
                     the student, with the prefix in front as a system message or as messages

Both must have the very same tokens at the places that are learnt, one for one: of a chat the words of its last
assistant's turns. A row where they are others is refused. Each document costs the teacher its context anew, a
conversation that windows cut costs it for each window.

L tokens, P positions.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import RowError
from kdcache.tasks.chat import Chats
from kdcache.tasks.contexts import Before, Context, Told, learnt
from kdcache.tasks.example import Example
from kdcache.tasks.messages import Messages
from kdcache.tasks.task import Reader, Where

if TYPE_CHECKING:
    import pyarrow as pa

    from kdcache.tasks.causal_lm import CausalLMConfig, Kept, TokenReader

__all__ = ["Prefix", "TeacherReader", "in_front", "prefix_digest", "told_apart"]

Prefix = str | tuple[dict[str, Any], ...]
"""Text, or messages of a chat."""


def prefix_digest(prefix: Prefix) -> str:
    """Sha256 of a prefix as JSON."""
    return hashlib.sha256(json.dumps(prefix, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def told_apart(settings: "CausalLMConfig", corpus: CorpusConfig, prefix: Prefix | None) -> str | None:
    """Why these settings do not go together, in words; None where they do."""
    if corpus.messages_field is None:
        if corpus.teacher_messages_field is not None:
            return "got corpus.teacher_messages_field without corpus.messages_field, which the student sees"
        if prefix is not None and not isinstance(prefix, str):
            return "got messages as teacher.prefix of a corpus without corpus.messages_field, expected text"
        return None
    seen = prefix is not None or corpus.teacher_messages_field is not None
    if seen and settings.packing == "windows" and settings.attention == "causal":
        return (
            "got task.attention causal with task.packing windows, where a chat sees those before it, and a teacher "
            "that is told another conversation, expected attention: document or packing: documents"
        )
    return None


def in_front(prefix: Prefix | None, messages: Messages) -> Messages:
    """A conversation with a prefix in front. Text goes before that of a system message that stands there already."""
    if prefix is None:
        return messages
    if not isinstance(prefix, str):
        return [*prefix, *messages]
    first = messages[0]
    if first["role"] == "system" and isinstance(first.get("content"), str):
        return [first | {"content": f"{prefix}\n\n{first['content']}"}, *messages[1:]]
    return [{"role": "system", "content": prefix}, *messages]


class TeacherReader(Reader):
    """Rows of a corpus -> what the teacher reads, with the places where its records stand in the student's examples.

    Args:
        student: What makes the student's examples.
        tokenizer: Of both.
        corpus: Names the columns.
        prefix: What the teacher alone sees before each of them.
        longest: Tokens of an input, at most.
        chats: What makes conversations of the teacher's column, of a corpus of chats.
    """

    def __init__(
        self,
        student: "TokenReader",
        tokenizer: Any,
        corpus: CorpusConfig,
        prefix: Prefix | None,
        longest: int,
        chats: Chats | None,
    ) -> None:
        self._student, self._longest = student, longest
        self._context: Context
        if chats is not None:
            self._context = Told(chats, tokenizer)
        else:
            assert isinstance(prefix, str)
            texts = None if corpus.tokens_field is not None else corpus.text_field
            self._context = Before(tokenizer, prefix, texts, student.ended)

    def examples(self, table: "pa.Table", where: Where) -> tuple[list[Example], dict[str, int]]:
        """As Reader says; one for each document of each example that has positions in it."""
        by_row, _ = self._student.by_row(table, where)
        self._context.read(table, by_row, where)
        kept, _ = self._student.kept(by_row, where)
        self._check_lengths(kept, where)
        placed = self._student.placed([document for _, document in kept])
        ends = np.cumsum([len(document[0]) for _, document in kept])
        found, number = [], 0
        for start, example in placed:
            begin = 0
            for end in np.cumsum(example.documents).tolist() if len(example.positions) else []:
                at_P = example.positions[(example.positions >= begin) & (example.positions < end)]
                if len(at_P):
                    of = int(np.searchsorted(ends, start + begin, side="right"))
                    offset = start + begin - (int(ends[of - 1]) if of else 0)
                    input_ = self._context.input(kept[of][0], example.tokens[begin:end], at_P - begin + 1, offset)
                    stands_P2 = np.stack([np.full(len(at_P), number), at_P], 1)
                    found.append(_example(*input_, stands_P2))
                begin = end
            number += len(example.positions) > 0
        return found, {}

    def _check_lengths(self, kept: "Sequence[Kept]", where: Where) -> None:
        """Of whole conversations, whatever windows cut, so that it does not depend on other rows."""
        for (row, number), document in kept if self._context.whole else []:
            labels_P = learnt(document)
            if len(labels_P):
                _, at_P = self._context.input((row, number), document[0], labels_P, 0)
                if at_P[-1] >= self._longest:
                    raise RowError(
                        where,
                        row,
                        f" is {at_P[-1] + 1} tokens to the teacher, which sees more than the student, expected at most "
                        f"teacher.max_length {self._longest}; raise it, or leave such rows out",
                    )


def _example(tokens_L: np.ndarray, labels_at_P: np.ndarray, stands_P2: np.ndarray) -> Example:
    tokens_L = tokens_L[: labels_at_P[-1] + 1]
    return Example(tokens_L, labels_at_P - 1, tokens_L[labels_at_P], np.array([len(tokens_L)]), stands=stands_P2)
