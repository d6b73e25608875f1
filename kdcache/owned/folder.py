"""The mark of an output folder: FOLDER/.kdcache/owner.json names its kind and what made it.

A command that writes into a folder asks `check_output` first, which writes nothing, and `claim` before its first
file, which writes the mark. A folder that is absent, empty or marked with the same kind passes; anything else is
refused in one line, so that no file of the user's is ever replaced or deleted. A folder inside a marked one is refused
too, and so is one that holds what the command reads.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from kdcache import __version__
from kdcache.disk import Disk, fault
from kdcache.errors import ConfigError
from kdcache.progress import say

__all__ = [
    "HIDDEN",
    "OWNER",
    "Kind",
    "Owner",
    "abandon",
    "check_output",
    "claim",
    "mark",
    "read_mark",
    "read_owner",
    "refused",
    "scratch",
]

HIDDEN = ".kdcache"
OWNER = f"{HIDDEN}/owner.json"
NOT_CONTENT = {HIDDEN, "lost+found", ".DS_Store"}
"""Names that an empty folder may hold."""

Kind = Literal["cache", "run", "student", "model"]
SAID: set[str] = set()
SPOKEN = {"cache": "a cache", "run": "a training run", "student": "a student", "model": "a model"}


@dataclass(frozen=True)
class Owner:
    """What a mark says.

    Attributes:
        kind: What the folder is.
        made_by: "kdcache 0.1.0".
        config: The resolved settings as JSON, where there are any.
        files: sha256 of the files of an exported model, by name.
    """

    kind: Kind
    made_by: str = f"kdcache {__version__}"
    config: Any = None
    files: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        values: dict[str, Any] = {"kind": self.kind, "made_by": self.made_by}
        values |= {key: value for key, value in (("config", self.config), ("files", dict(self.files))) if value}
        return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()


def scratch(folder: Path, name: str) -> Path:
    """FOLDER/.kdcache/name, where a command may write and delete what it likes; it is not made here."""
    return folder / HIDDEN / name


def read_owner(folder: Path) -> Owner | None:
    """The mark of a folder, None where it has none. Raises ConfigError for a damaged one."""
    path = folder / OWNER
    try:
        return read_mark(path.read_bytes(), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {fault(error)}; expected a folder that can be read") from None


def read_mark(data: bytes, where: str) -> Owner:
    """A mark's bytes. Raises ConfigError for damaged ones."""
    try:
        found = json.loads(data)
        kind, files = found["kind"], found.get("files", {})
        if kind not in get_args(Kind):
            raise ValueError(f"kind {kind!r:.40}")
        return Owner(kind, str(found["made_by"]), found.get("config"), {str(k): str(v) for k, v in files.items()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(
            f"{where} is damaged, expected the mark of a folder that kdcache made: use another folder, or give --force "
            "to mark this one anew"
        ) from None


def check_output(
    folder: Path,
    kind: Kind,
    *,
    setting: str = "output",
    inputs: Mapping[str, Iterable[str | Path]] | None = None,
    known: Callable[[], bool] = lambda: False,
    force: bool = False,
) -> None:
    """Refuse an output folder that is not ours; nothing is written.

    Args:
        folder: The output.
        kind: What it is to be.
        setting: What the user calls it.
        inputs: What the command reads, setting -> files or folders. None of them may be the output, lie inside it, or,
            where it is a folder, hold it.
        known: Whether a folder without a mark is of this kind all the same, as a downloaded cache is.
        force: Take the folder as it is, and say what that overrides.

    Raises:
        ConfigError: What is in the way, what was expected, and what to do.
    """
    _check_path(folder, setting)
    _check_apart(folder, setting, inputs or {})
    if (held := _fault(folder, kind, known)) is None:
        return
    if not force:
        raise refused(f"{setting} {folder}", held, kind)
    _say_once(f"--force: {setting} {folder} {held}; it becomes {SPOKEN[kind]} all the same, and nothing is deleted")


def claim(
    folder: Path,
    kind: Kind,
    *,
    config: Any = None,
    setting: str = "output",
    inputs: Mapping[str, Iterable[str | Path]] | None = None,
    known: Callable[[], bool] = lambda: False,
    force: bool = False,
) -> None:
    """Check a folder as check_output does, and mark it as ours. Of several processes the first one's mark stays.

    Raises ConfigError as check_output does, or where the mark cannot be written.
    """
    check_output(folder, kind, setting=setting, inputs=inputs, known=known, force=force)
    try:
        owner = read_owner(folder)
    except ConfigError:
        owner = None
        (folder / OWNER).unlink()
    if owner is None or owner.kind != kind:
        mark(folder, Owner(kind, config=config), replace=owner is not None)
        if (owner := read_owner(folder)) is not None and owner.kind != kind:
            raise refused(f"{setting} {folder}", f"holds {SPOKEN[owner.kind]} of {owner.made_by}", kind)


def mark(folder: Path, owner: Owner, *, replace: bool) -> None:
    """Write the mark, atomically. replace: False leaves one that is there. Raises ConfigError where it cannot."""
    try:
        Disk(folder).write(OWNER, owner.to_json(), replace=replace)
    except OSError as error:
        raise ConfigError(f"cannot write {folder / OWNER}: {fault(error)}; expected a folder to write in") from None


def abandon(folder: Path) -> None:
    """Take the mark off a folder that holds nothing else, and the folder away, unless somebody else came meanwhile."""
    if {*Disk(folder).entries()} != {HIDDEN}:
        return
    with suppress(OSError):
        locks = folder / HIDDEN / "locks"
        if locks.exists():
            locks.rmdir()
        (folder / OWNER).unlink(missing_ok=True)
        (folder / HIDDEN).rmdir()
        folder.rmdir()


def refused(where: str, held: str, kind: Kind) -> ConfigError:
    """where: "output runs/cache". held: what is in the way, with its verb."""
    return ConfigError(
        f"{where} {held}; expected a new or empty folder, or {SPOKEN[kind]} that kdcache made: use another output, or "
        "give --force to write there all the same"
    )


def _say_once(text: str) -> None:
    """A folder is looked at before something slow, and again before it is marked."""
    if text not in SAID:
        SAID.add(text)
        say(text)


def _fault(folder: Path, kind: Kind, known: Callable[[], bool]) -> str | None:
    """Why the folder is not ours, with its verb."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot list {folder}: {fault(error)}; expected a folder to write in") from None
    content = [name for name in names if name not in NOT_CONTENT]
    try:
        owner = read_owner(folder)
    except ConfigError:
        return f"has a damaged mark, {OWNER}"
    if owner is not None:
        return None if owner.kind == kind else f"holds {SPOKEN[owner.kind]} of {owner.made_by}"
    if not content or known():
        return None
    more = f" and {len(content) - 3:,} more" if len(content) > 3 else ""
    return f"holds {', '.join(content[:3])}{more}, which kdcache did not write there"


def _check_path(folder: Path, setting: str) -> None:
    """Raises ConfigError where a file, a dangling link or a link out of the folder is in the way."""
    in_the_way = next((path for path in (folder, *folder.parents) if path.is_file()), None)
    if in_the_way is not None:
        raise ConfigError(f"got {setting} {folder}, but {in_the_way} is a file; expected a new folder")
    for path in (folder, folder / HIDDEN):
        if path.is_symlink() and (path.name == HIDDEN or not path.exists()):
            raise ConfigError(f"got {setting} {folder}, but {path} is a link to {path.readlink()}; expected a folder")


def _check_apart(folder: Path, setting: str, inputs: Mapping[str, Iterable[str | Path]]) -> None:
    """Raises ConfigError for a folder inside a marked one, and for one that is, holds or lies in an input."""
    output = folder.resolve()
    for parent in output.parents:
        if (parent / OWNER).is_file():
            owner = read_owner(parent)
            what = SPOKEN[owner.kind] if owner else "an output"
            raise ConfigError(
                f"got {setting} {folder}, which lies inside {parent}, {what} of kdcache; expected a folder beside it"
            )
    for name, paths in inputs.items():
        for path in map(Path, paths):
            source = path.resolve()
            if not source.exists():
                continue
            relation = (
                "is"
                if output == source
                else "holds"
                if output in source.parents
                else "lies inside"
                if source in output.parents
                else None
            )
            if relation is not None:
                raise ConfigError(
                    f"got {setting} {folder}, which {relation} {name} {path}; expected a folder apart from what is read"
                )
