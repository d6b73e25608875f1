"""A cache's folder as an output: it is ours, and nobody writes another cache there.

On a disk that is kdcache.owned: the mark and a lease. A remote store has the same mark as an object, and no lease:
what keeps two caches apart there is that header.json is created once, and never replaced without --force.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdcache.errors import CacheError, ConfigError, UnreadableError
from kdcache.hub import is_hub
from kdcache.owned.folder import HIDDEN, Owner, check_output, claim, read_mark, refused
from kdcache.owned.lock import Hold, hold
from kdcache.progress import say
from kdcache.store.files import Root

__all__ = ["CacheOutput", "looks_like_cache"]


def looks_like_cache(root: Root) -> bool:
    """Whether a folder without a mark holds a cache all the same, as a downloaded or copied one does.

    Raises UnreadableError where that cannot be known now.
    """
    for name in ("header.json", "cache.json"):
        try:
            found = json.loads(root.read(name))
            if "kdcache" in (found.get("format"), found.get("header", {}).get("format")):
                return True
        except UnreadableError:
            raise
        except (FileNotFoundError, CacheError, ValueError, AttributeError, RecursionError):
            continue
    return False


@dataclass(frozen=True)
class CacheOutput:
    """Where a cache is to be written.

    Attributes:
        path: Folder or fsspec URL.
        doing: The command, for others that want to write there.
        inputs: What it reads, setting -> files or folders; the output is to be apart from them.
        config: The resolved settings as JSON, kept in the mark.
        force: Write into a folder that is not ours, or in which another command writes.
        setting: What the user calls the path.
    """

    path: str | os.PathLike[str]
    doing: str = "cache-writer"
    inputs: Mapping[str, Iterable[str | Path]] = field(default_factory=dict)
    config: Any = None
    force: bool = False
    setting: str = "output"

    def check(self) -> None:
        """Raises ConfigError for a folder that is not ours; nothing is written."""
        if is_hub(os.fspath(self.path)):
            raise ConfigError(
                f"got {self.setting} {self.path}, expected a folder or a store: on the Hub each file would be a commit "
                "of its own; write the cache elsewhere, and kdcache push it"
            )
        root = Root(self.path)
        if root.local is None:
            _check_remote(root, self)
            return
        check_output(
            root.local,
            "cache",
            setting=self.setting,
            inputs=self.inputs,
            known=lambda: looks_like_cache(root),
            force=self.force,
        )

    def take(self, identity: str) -> Hold:
        """Mark the folder and register as a writer of this identity.

        Raises:
            ConfigError: The folder is not ours.
            LockedError: Somebody writes another cache there.
        """
        root = Root(self.path)
        if root.local is None:
            _check_remote(root, self)
            hidden = Root(f"{root.url}/{HIDDEN}")
            mark = Owner("cache", config=self.config).to_json()
            hidden.write("owner.json", mark, replace=self.force)
            return Hold(Path(root.url))
        self.check()
        held = hold(root.local, self.doing, identity=identity, force=self.force)
        try:
            claim(
                root.local,
                "cache",
                config=self.config,
                setting=self.setting,
                known=lambda: looks_like_cache(root),
                force=self.force,
            )
        except BaseException:
            held.release()
            raise
        return held


def _check_remote(root: Root, output: CacheOutput) -> None:
    where = f"{output.setting} {root.url}"
    try:
        owner = read_mark(Root(f"{root.url}/{HIDDEN}").read("owner.json"), f"{root.url}/{HIDDEN}/owner.json")
    except FileNotFoundError:
        names = [name for name in root.entries() if name != HIDDEN]
        if not names or looks_like_cache(root):
            return
        held = f"holds {', '.join(names[:3])}{f' and {len(names) - 3:,} more' if names[3:] else ''}"
    except ConfigError:
        held = "has a damaged mark"
    else:
        if owner.kind == "cache":
            return
        held = f"holds a {owner.kind} of {owner.made_by}"
    if not output.force:
        raise refused(where, held, "cache")
    say(f"--force: {where} {held}; it becomes a cache all the same, and no other object is deleted")
