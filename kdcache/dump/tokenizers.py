"""Which tokenizer makes the cache's tokens, and which one the teacher reads with.

A teacher only ever reads its own tokens. A language model's records are of its tokens, so that the cache holds the
same ones: a tokenizer that is given beside such a teacher is one vocabulary with its own, or refused. Records of a
classification are of rows or words, so that the cache's tokens may be another tokenizer's, that of the students, while
the teacher is fed with its own. Characters are collected from the whole corpus, by every rank alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from kdcache.corpus import Corpus
from kdcache.dump.pins import check_length, longest_input, read_model_config
from kdcache.dump.settings import DumpConfig, TeacherConfig
from kdcache.errors import ConfigError, CorpusError
from kdcache.progress import say
from kdcache.tasks import Example, Reader, Task, task_of
from kdcache.tasks.characters import CHARACTERS, character_tokenizer
from kdcache.tasks.labels import Labels
from kdcache.tasks.sees_more import prefix_digest
from kdcache.tasks.task import Where
from kdcache.tasks.tokenizer import has_tokenizer, load_tokenizer, tokenizer_difference, tokenizer_digest

__all__ = ["OwnTokens", "Tokenizers", "find_tokenizers", "own_examples", "own_tokens"]

NAMED = {"bos_token_id": "start of text", "eos_token_id": "end of text", "pad_token_id": "padding"}


@dataclass(frozen=True)
class Tokenizers:
    """cache: of the cache's tokens. teacher: of the teacher's, where they are others; else None."""

    cache: Any
    teacher: Any | None = None


def find_tokenizers(config: DumpConfig, corpus: Corpus, folder: str | None) -> Tokenizers:
    """folder: the teacher's, None without one.

    Raises ConfigError where the tokenizer that the config names would make tokens that the teacher cannot read.
    """
    if folder is None or config.teacher == "none":
        return Tokenizers(_given(config, corpus))
    if not has_tokenizer(folder):
        return Tokenizers(_of_a_teacher_without(config, config.teacher, folder))
    own = load_tokenizer(folder, config.teacher.trust_remote_code)
    if config.tokenizer is None:
        return Tokenizers(own)
    own_tokens_alone = task_of(config.task).generates
    if own_tokens_alone and config.tokenizer == CHARACTERS:
        raise ConfigError(f"got tokenizer {CHARACTERS} with a teacher, expected the teacher's own: leave tokenizer out")
    given = _given(config, corpus)
    why = tokenizer_difference(own, given)
    if why is None:
        if own_tokens_alone:
            _say_other_end(config, own, given)
        return Tokenizers(given)
    if own_tokens_alone:
        raise ConfigError(
            f"got tokenizer {config.tokenizer}, which is not one vocabulary with that of the teacher "
            f"{config.teacher.path} ({why}), expected the teacher's own: leave tokenizer out"
        )
    return Tokenizers(given, own)


@dataclass(frozen=True)
class OwnTokens:
    """What makes tokens of the same rows for a teacher that reads others than the cache's.

    task: as the teacher is asked it. pins: what the pin of the teacher in the header says of it.
    """

    tokenizer: Any
    reader: Reader
    task: Task
    pins: dict[str, Any]


def own_tokens(
    config: DumpConfig, tokenizers: Tokenizers, labels: Labels | None, folder: str | None
) -> OwnTokens | None:
    """None for a teacher that reads the cache's tokens, and without a teacher.

    Raises ConfigError for examples longer than the teacher can read, and for a teacher.max_length of no use.
    """
    if folder is None or config.teacher == "none":
        return None
    task = task_of(config.task)
    longest, wanted = longest_input(config.teacher, folder), config.teacher.max_length
    if (seeing := _seeing_more(config, config.teacher, tokenizers.cache, longest)) is not None:
        return seeing
    if tokenizers.teacher is None or task.generates:
        if wanted is not None:
            raise ConfigError(
                f"got teacher.max_length {wanted} for a teacher that reads the cache's tokens, expected it only beside "
                "a tokenizer that is not the teacher's, or what the teacher alone sees: set the length in task"
            )
        check_length(task, config.teacher, longest)
        return None
    if getattr(config.task, "overlong", None) == "windows":
        raise ConfigError(
            "got task.overlong windows beside a tokenizer that is not the teacher's, whose windows are others; "
            "expected head, tail or middle_out, or no tokenizer"
        )
    length = wanted or min(task.longest, longest or task.longest)
    if longest is not None and length > longest:
        raise ConfigError(
            f"got teacher.max_length {length}, expected at most {longest}, the most positions that the teacher "
            f"{config.teacher.path} has"
        )
    asked = task.with_length(length)
    pins = {"tokenizer_sha256": tokenizer_digest(tokenizers.teacher), "max_length": length}
    return OwnTokens(tokenizers.teacher, asked.reader(tokenizers.teacher, config.corpus, labels), asked, pins)


def _seeing_more(config: DumpConfig, teacher: TeacherConfig, tokenizer: Any, reads: int | None) -> OwnTokens | None:
    """Of a teacher that sees more than the cache's tokens; None for another one. reads: tokens at most."""

    def length(needed: int) -> int:
        chats = config.corpus.messages_field is not None
        chats = config.corpus.messages_field is not None
        longest = teacher.max_length or (min(needed, reads or needed) if chats else needed)
        if not chats and longest < needed:
            raise ConfigError(
                f"got teacher.max_length {longest}, expected at least the {needed} tokens of teacher.prefix and "
                f"task.{task.length_setting}, or none"
            )
        if reads is not None and longest > reads:
            raise ConfigError(
                f"got a teacher that is to read {longest} tokens with what it alone sees, expected at most {reads}, "
                f"the most positions that {teacher.path} has: shorten teacher.prefix, task.{task.length_setting} or "
                "teacher.max_length"
            )
        return longest

    task = task_of(config.task)
    view = task.view(tokenizer, config.corpus, teacher.prefix, length)
    if view is None:
        return None
    asked, reader = view
    pins = {
        "max_length": asked.longest,
        "prefix_sha256": None if teacher.prefix is None else prefix_digest(teacher.prefix),
        "messages_field": config.corpus.teacher_messages_field,
    }
    return OwnTokens(tokenizer, reader, asked, pins)


def own_examples(
    own: Reader, examples: Sequence[Example], table: pa.Table, where: Where, notes: dict[str, int]
) -> list[Example]:
    """The rows of these examples as the teacher reads them: the same positions, in the same order, in other windows.

    What was cut for the teacher is added to notes. Raises CorpusError where a row is left out by one tokenizer alone.
    """
    found, cut = own.examples(table, where)
    labels, theirs = (np.concatenate([e.labels for e in some] or [np.zeros(0)]) for some in (examples, found))
    if not np.array_equal(labels, theirs, equal_nan=True):
        raise CorpusError(
            f"{where(0)} and the rows after it are {len(labels):,} positions to the tokenizer of the cache and "
            f"{len(theirs):,} to the teacher's, expected the same ones: leave out rows that one makes nothing of"
        )
    notes |= {f"{name} for the teacher": cut[name] for name in ("truncated", "windowed", "unreadable") if name in cut}
    return found


def _given(config: DumpConfig, corpus: Corpus) -> Any:
    """The one that the config names, or of the corpus' characters."""
    if config.tokenizer != CHARACTERS:
        return load_tokenizer(config.tokenizer or "")
    texts = task_of(config.task).texts
    return character_tokenizer(
        text for table in corpus.tables(skip=config.on_bad_row == "skip") for text in texts(table, config.corpus)
    )


def _of_a_teacher_without(config: DumpConfig, teacher: TeacherConfig, folder: str) -> Any:
    """The given one, as far as the teacher's config can tell whether it is the teacher's.

    That it has an embedding and a class for each id is looked at when it is loaded.
    """
    if config.tokenizer in (None, CHARACTERS):
        raise ConfigError(
            f"got {f'tokenizer {CHARACTERS}' if config.tokenizer else 'no tokenizer'} and a teacher, {teacher.path}, "
            "whose folder has none, expected the one that the teacher was trained with: put its files there, or name "
            "its folder in tokenizer"
        )
    given = load_tokenizer(config.tokenizer)
    model_config = read_model_config(teacher, folder).get_text_config()
    for name, spoken in NAMED.items():
        expected, got = getattr(model_config, name, None), getattr(given, name, None)
        known = expected if isinstance(expected, list) else [expected]
        if got is not None and expected is not None and got not in known:
            raise ConfigError(
                f"got tokenizer {config.tokenizer}, whose token of {spoken} is {got}, expected "
                f"{' or '.join(map(str, known))}, the {name} in the config of the teacher {teacher.path}: take the "
                "tokenizer that it was trained with, or mend its config.json"
            )
    return given


def _say_other_end(config: DumpConfig, own: Any, given: Any) -> None:
    """What ends a document is then a token that may end none for the teacher."""
    if own.eos_token_id is not None and given.eos_token_id != own.eos_token_id and not config.corpus.messages_field:
        say(
            f"warning: the end of text of tokenizer {config.tokenizer} is {given.eos_token} ({given.eos_token_id}), "
            f"the teacher's {own.eos_token} ({own.eos_token_id}): documents end with the first"
        )
