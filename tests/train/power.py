"""What a disk holds after a power cut at any operation: what was not brought to it is gone.

Three disks, from the hardest on: one that has only the names and bytes that were fsynced; one that has all names, with
zeros for bytes that were not fsynced; one that has all names, with files of no bytes in their place.
"""

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["DISKS", "Disk"]

DISKS = ("only what was fsynced", "zeros", "no bytes")


class Node:
    """A file or folder, whatever its name. content: its durable bytes, or names; None where there are none yet."""

    def __init__(self, content: "bytes | dict[str, Node] | None" = None) -> None:
        self.content = content


class Disk:
    """Follows the operations of a process under a folder, as striking.watching tells of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: dict[int, Node] = {}
        for where, folders, files in os.walk(folder, topdown=False):
            for name in files:
                self._node(Path(where, name)).content = Path(where, name).read_bytes()
            for name in folders:
                self._sync(Path(where, name))
        self._sync(folder)

    def _node(self, path: Path) -> Node:
        return self.nodes.setdefault(path.lstat().st_ino, Node())

    def _sync(self, path: Path) -> None:
        if path.is_dir():
            self._node(path).content = {name: self._node(path / name) for name in os.listdir(path)}
        else:
            self._node(path).content = path.read_bytes()

    def follow(self, what: str, path: Path) -> None:
        """Take note of one operation, before it is done."""
        if what == "fsynced":
            self._sync(path)
        elif (what in ("remove", "rmdir") and os.path.lexists(path)) or (what == "rename" and path.is_file()):
            self.nodes.pop(path.lstat().st_ino, None)

    def cut(self, disk: str, target: Path) -> None:
        """Write what a disk of this kind holds now."""
        if disk == DISKS[0]:
            _write(self._node(self.folder), target)
        else:
            self._copy(self.folder, target, (lambda size: bytes(size)) if disk == DISKS[1] else (lambda size: b""))

    def _copy(self, source: Path, target: Path, lost: Callable[[int], bytes]) -> None:
        target.mkdir()
        for path in source.iterdir():
            if path.is_dir():
                self._copy(path, target / path.name, lost)
            else:
                content = self._node(path).content
                size = path.stat().st_size
                (target / path.name).write_bytes(content if isinstance(content, bytes) else lost(size))


def _write(node: Node, target: Path) -> None:
    target.mkdir()
    for name, below in (node.content or {}).items():  # type: ignore[union-attr]
        if isinstance(below.content, dict):
            _write(below, target / name)
        elif isinstance(below.content, bytes):
            (target / name).write_bytes(below.content)
