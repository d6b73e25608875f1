"""Paths as a shell would read them: ~ and $NAME are expanded, so that no folder of such a name is made."""

import os
import re

from kdcache.errors import ConfigError

__all__ = ["check_local", "expanded"]

VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")


def expanded(path: str) -> str:
    """With ~, ~user, $NAME and ${NAME} replaced. Raises ConfigError for a name that is not set.

    A path that is there under its own name stays as it is.
    """
    if "\0" in path:
        raise ConfigError(f"got path {path!r} with a NUL in it, expected one that a file can have")
    if not path.startswith("~") and "$" not in path:
        return path
    if os.path.lexists(path):
        return path
    found = os.path.expandvars(os.path.expanduser(path))
    if found.startswith("~"):
        raise ConfigError(f"got path {path}, expected a home folder of that user")
    unset = VARIABLE.search(found)
    if unset:
        raise ConfigError(f"got path {path}, expected {unset[1].strip('{}')} to be set in the environment")
    return found


def check_local(path: str) -> str:
    """The path, if it is one of this machine's disks. Raises ConfigError for a URL.

    pathlib would take s3://bucket/run for a folder named s3: in the working directory.
    """
    if "://" not in path:
        return path
    if path.startswith("file://"):
        raise ConfigError(f"got {path}, expected a path: {path.removeprefix('file://')}")
    raise ConfigError(
        f"got {path}, expected a folder or file on this machine, mounted ones included: only corpora and caches may be "
        "URLs; copy it, or mount the store"
    )
