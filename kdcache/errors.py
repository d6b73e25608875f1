"""Every error a user can meet, as one tree.

KdcacheError               exit status 1: the work failed; 2 for any of them that was raised with missing_path=True
├── CorpusError            a corpus file is missing, empty, not the format it claims, or lacks a field
│   └── RowError           one row of it cannot be used
├── CacheError             a cache is unfinished, damaged, of a newer format, or not the one that was asked for
│   ├── DamagedShardError  a shard's bytes do not match its commit record
│   └── UnreadableError    a file of a cache cannot be read now; nothing says that it is damaged
├── TeacherError           the teacher cannot be loaded, or gave logits that cannot be stored
├── StudentError           the student does not fit the cache
├── TrainError             training cannot go on
│   └── RunStoppedError    exit status 75: it was told to stop, wrote a checkpoint, and goes on when it is run again
├── LockedError            another command writes in the output folder
└── ConfigError            exit status 2: the command or its config was wrong

A message is one line: what was got, what was expected, what to do. Where that is a command, it is spelled out
(`next_command`), so that it can be typed as it stands.

Names in it may be a stranger's: of a teacher, a class, a column, a file. `printable` and `in_markdown` say how such a
text is shown, on a terminal and on a model card; whatever writes there calls them, and JSON stays exact.
"""

import re
import shlex
import unicodedata
from collections.abc import Callable, Sequence
from typing import Self

__all__ = [
    "LONGEST_LINE",
    "CacheError",
    "ConfigError",
    "CorpusError",
    "DamagedShardError",
    "KdcacheError",
    "LockedError",
    "RowError",
    "RunStoppedError",
    "StudentError",
    "TeacherError",
    "TrainError",
    "UnreadableError",
    "as_code",
    "in_markdown",
    "next_command",
    "one_line",
    "printable",
]

LONGEST_LINE = 4000
HARMLESS_FORMATS = {"\u200c", "\u200d"}
"""Joiners, which Persian, the languages of India and emoji are written with."""
SECRET = re.compile(
    r"(?<=://)[^/\s@:]*:[^/\s@]+(?=@)"
    r"|(?<=\bhttps://)[^/\s@]+(?=@)"
    r"|\b(?P<hub>hf_)[A-Za-z0-9]{16,}"
    r"|(?P<key>[?&][\w.-]*(?:token|secret|signature|password|credential|api_?key|sig)=)[^&\s'\",;]+",
    re.IGNORECASE,
)
"""What a URL may hold that opens a door, and tokens of the Hugging Face Hub."""
PLAIN = re.compile(r"(?!www\.)(?:(?!\b_|_\b)[\w. -])+(?:/(?:(?!\b_|_\b)[\w. -])+)?", re.IGNORECASE)
"""Words of which Markdown makes neither a link nor emphasis."""


class KdcacheError(Exception):
    """Base of all errors that kdcache raises on purpose; the CLI prints it as one line.

    missing_path: whether what the command or its config names is not there, whoever finds out: exit status 2.
    """

    exit_status = 1

    def __init__(self, message: str = "", *, missing_path: bool = False) -> None:
        super().__init__(message)
        if missing_path:
            self.exit_status = 2


class CorpusError(KdcacheError):
    """A corpus file is missing, empty, not the format it claims, or lacks a field."""


class RowError(CorpusError):
    """One row is at fault: the others of its unit can still be used.

    Args:
        where: row -> "file.jsonl:123". Asked only when the message is wanted, since it may read the file.
        row: number of the row among those that were looked at.
        words: what follows the place in the message, such as " is not JSON" or ": text is null".
        settings: what a config may say to take such rows, such as "task.overlong: truncate".
    """

    def __init__(self, where: Callable[[int], str], row: int, words: str, settings: Sequence[str] = ()) -> None:
        super().__init__()
        self.row, self.words, self.settings = row, words, tuple(settings)
        self._where = where

    def __str__(self) -> str:
        return f"{self._where(self.row)}{self.words}"

    @property
    def why(self) -> str:
        """What is wrong, without the place."""
        return self.words.lstrip(": ")

    def moved(self, rows: int) -> Self:
        """The same error among rows that begin so many earlier."""
        return type(self)(lambda row: self._where(row - rows), self.row + rows, self.words, self.settings)


class CacheError(KdcacheError):
    """A cache is unfinished, damaged, of a newer format, or not the one that was asked for."""


class DamagedShardError(CacheError):
    """A shard's bytes do not match its commit record."""


class UnreadableError(CacheError):
    """A file of a cache cannot be read or listed now: no answer, no permission. Nothing says that it is damaged."""


class TeacherError(KdcacheError):
    """The teacher cannot be loaded, or gave logits that cannot be stored."""


class StudentError(KdcacheError):
    """The student does not fit the cache."""


class TrainError(KdcacheError):
    """Training cannot go on."""


class RunStoppedError(TrainError):
    """A run was told to stop, by a signal or its time limit, wrote a checkpoint, and goes on when it is run again.

    The status is EX_TEMPFAIL of sysexits.h, "try again later", so that a batch script can send the job again.
    """

    exit_status = 75


class LockedError(KdcacheError):
    """Another command writes in the output folder."""


class ConfigError(KdcacheError):
    """The command or its config was wrong."""

    exit_status = 2


def one_line(error: BaseException, limit: int | None = None) -> str:
    """What another library's error says, without its line breaks; its class where it says nothing."""
    text = printable(" ".join(str(error).split())) or type(error).__name__
    return text if limit is None or len(text) <= limit else f"{text[: limit - 1]}…"


def next_command(*words: object) -> str:
    """What to type next, for the end of a message: "run kdcache verify 'my cache' --repair"."""
    return f"run {shlex.join(['kdcache', *map(str, words)])}"


def printable(text: object, *, lines: bool = False, limit: int | None = None) -> str:
    """A text as a terminal may show it: whatever steers one is written as an escape, such as \\x1b or \\u202e.

    These are control characters, marks that change the direction of writing, separators of lines and halves of
    surrogate pairs. Passwords and tokens in URLs, and tokens of the Hugging Face Hub, become "…".

    Args:
        text: of anyone.
        lines: whether it is several lines, whose line breaks stay.
        limit: characters, after which it is cut.
    """
    shown = SECRET.sub(_hidden, str(text))
    if limit is not None and len(shown) > limit:
        shown = f"{shown[: limit - 1]}…"
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(one if (lines and one == "\n") or not _steers(one) else _escape(one) for one in shown)


def _hidden(found: re.Match[str]) -> str:
    return f"{found['hub'] or found['key'] or ''}…"


def _steers(one: str) -> bool:
    category = unicodedata.category(one)
    return category in ("Cc", "Cs", "Zl", "Zp") or (category == "Cf" and one not in HARMLESS_FORMATS)


def _escape(one: str) -> str:
    """As Python writes it in a string."""
    return one.encode("unicode_escape").decode("ascii")


def in_markdown(text: object) -> str:
    """A text in a line or a table of Markdown, where it is nothing but text: plain, or else as code.

    Neither HTML nor links, images, cells or emphasis come of it.
    """
    shown = printable(text)
    return shown.strip() if not shown or PLAIN.fullmatch(shown) else as_code(shown)


def as_code(text: object) -> str:
    """The same as code in any case."""
    shown = printable(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    space = " " if "`" in shown else ""
    return f"{fence}{space}{shown}{space}{fence}".replace("|", "\\|")
