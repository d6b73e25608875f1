"""A format of captures of one's own: a .npz of tokens [N, L] with ids and log-probabilities [N, L, K].

`kdcache import npz FILE --module imports.own_format`.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import kdcache
from kdcache.imports.capture import Capture, Captured
from kdcache.imports.options import ImportOptions


class Npz(Capture):
    """One file, one unit."""

    def __init__(self, paths: Sequence[str], options: ImportOptions) -> None:
        (self.path,) = paths
        self.arrays = np.load(self.path)

    @property
    def num_units(self) -> int:
        return 1

    def unit(self, index: int) -> Iterator[Captured]:
        tokens_NL, ids_NLK, log_p_NLK = (self.arrays[name] for name in ("tokens", "ids", "log_probs"))
        for row, tokens in enumerate(tokens_NL):
            P, K = len(tokens) - 1, ids_NLK.shape[2]
            entries = ids_NLK[row, :P].reshape(-1), log_p_NLK[row, :P].reshape(-1)
            yield Captured(f"{self.path} row {row + 1}", tokens, np.arange(P), np.full(P, K), *entries)

    def unit_sha256(self, index: int) -> str:
        with open(self.path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()

    def check_unchanged(self) -> None:
        """A small file, read as a whole."""

    @property
    def pin(self) -> dict[str, Any]:
        return {"sha256": self.unit_sha256(0), "files": 1, "rows": len(self.arrays["tokens"]), "bytes": 0}


kdcache.register_import("npz", Npz)
