"""A finished model takes its place: nothing of the user's is deleted, and a kill leaves the old model or the new one.

A model's mark names the sha256 of each of its files (1 GB/s or so), so that a file that somebody added or changed is
known for theirs.
"""

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

from kdcache.disk import sync_folder
from kdcache.errors import ConfigError
from kdcache.owned.folder import HIDDEN, Owner, mark, read_owner
from kdcache.progress import say

__all__ = ["digests", "faults", "foreign", "move_into", "swap_in"]


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file under a folder, by its name there; links as what they point to, in words."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] == HIDDEN:
            continue
        if path.is_symlink():
            found[str(name)] = f"link to {path.readlink()}"
        elif path.is_file():
            with path.open("rb") as file:
                found[str(name)] = hashlib.file_digest(file, "sha256").hexdigest()
        elif not path.is_dir():
            found[str(name)] = "neither a file nor a folder"
    return found


def foreign(folder: Path) -> list[str]:
    """The files under a model's folder that its mark does not name with these bytes: somebody else's."""
    owner = _owner(folder)
    ours = {} if owner is None else owner.files
    return [name for name, sha256 in digests(folder).items() if ours.get(name) != sha256]


def faults(folder: Path) -> list[str]:
    """What is not as the mark of a model's folder says, one line for each file; nothing for a whole model."""
    owner = _owner(folder)
    if owner is None or not owner.files:
        return [f"{folder} has no mark with the digests of a model's files"]
    got = digests(folder)
    return [
        f"{folder / name} {'has another sha256' if name in got else 'is missing'}"
        for name, sha256 in owner.files.items()
        if got.get(name) != sha256
    ]


def swap_in(made: Path, target: Path, owner: Owner) -> None:
    """Give a new folder of a model, with its mark, the place of the old one.

    The old folder is deleted where every file in it is as its mark says. Otherwise it stays, under another name, which
    is said.

    Args:
        made: The new folder, under FOLDER/.kdcache.
        target: Its place in FOLDER.
        owner: Its mark, to which the digests are added.

    Raises:
        ConfigError: Something that is no folder has the place.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ConfigError(
            f"{target} is no folder of a model, but {'a link' if target.is_symlink() else 'a file'}, which stays; the "
            f"new model is in {made}: move one of them away and run the same command again"
        )
    _finish(made, owner)
    old = made.with_name(f"{made.name}.old")
    if old.is_dir():
        _put_away(old, target)
    if target.is_dir():
        target.rename(old)
    made.rename(target)
    sync_folder(target.parent)
    if old.is_dir():
        _put_away(old, target)


def move_into(made: Path, target: Path, owner: Owner) -> None:
    """Move the files of a new model into a marked folder, config.json last, and name them in its mark.

    Raises ConfigError where a file of somebody else has the name of one of them.
    """
    files = digests(made)
    there, own = digests(target), _owner(target)
    ours = {} if own is None else own.files
    taken = [name for name in files if name in there and there[name] not in (ours.get(name), files[name])]
    if taken:
        raise ConfigError(
            f"{target / taken[0]} is in the way and not ours; expected a folder without it: move it away, or use "
            "another output"
        )
    _finish(made, owner)
    mark(target, replace(owner, files=files), replace=True)
    for name in ours:
        if name not in files and there.get(name) == ours[name]:
            (target / name).unlink()
    for name in sorted(files, key=lambda name: name == "config.json"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(made / name, target / name)
    sync_folder(target)
    sync_folder(target.parent)
    shutil.rmtree(made)


def _finish(made: Path, owner: Owner) -> None:
    """On the disk, not only in the system's memory, and marked."""
    for path in made.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for folder in (made, *(path for path in made.rglob("*") if path.is_dir())):
        sync_folder(folder)
    mark(made, replace(owner, files=digests(made)), replace=True)
    sync_folder(made)


def _put_away(old: Path, target: Path) -> None:
    others = foreign(old)
    if not others:
        shutil.rmtree(old)
        return
    number = 1
    while (kept := target.with_name(f"{target.name}.kept-{number}")).exists():
        number += 1
    old.rename(kept)
    more = f" and {len(others) - 3:,} more" if others[3:] else ""
    say(f"{target} held files that kdcache did not write ({', '.join(others[:3])}{more}): it stays as {kept}")


def _owner(folder: Path) -> Owner | None:
    try:
        return read_owner(folder)
    except ConfigError:
        return None
