"""llama.cpp: the files of `llama-perplexity --kl-divergence-base FILE`, log-probabilities of every class in 16 bits.

The layout (ggml-org/llama.cpp, tools/perplexity/perplexity.cpp: perplexity, process_logits and log_softmax),
little-endian, without gaps:

    "_logits_"                   8 bytes
    n_ctx, n_vocab, n_chunk      int32 each
    tokens                       int32 [n_chunk · n_ctx]
    n_chunk times, for the positions n_ctx // 2 … n_ctx − 2 of the chunk, each 2 ⌈n_vocab / 2⌉ + 4 numbers of 16 bits:
        scale, minimum           float32 each
        codes                    uint16 [n_vocab], and one more if n_vocab is odd; log p = scale · code + minimum

The distribution at position p is of token p + 1. Where the model wants a beginning-of-text token, the first token of
each chunk was replaced by it while the model read, and the file has the text's own: it is put back where the first
token of the file is that token, which says that the model wants one.

What is lost: scale is at most 16 / 65535, so that a log-probability is off by 1.2e-4 nats at most. Classes more than
16 nats below the likeliest all have code 0, as if they lay 16 below. They get what the others leave of the
probability, in equal parts: right in sum to some 1e-4, and nothing that a higher temperature could be asked. So records
are made for T = 1, or for temperatures up to 1 that --record names.

A chunk is in memory at a time, n_ctx / 2 · n_vocab numbers.

P positions, V classes.
"""

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from kdcache.errors import ConfigError, CorpusError
from kdcache.imports.binary_files import BinaryFile, find_local, pin_of
from kdcache.imports.capture import Capture, Captured
from kdcache.imports.options import ImportOptions

__all__ = ["LlamaCpp"]

MAGIC = b"_logits_"
HEAD = struct.Struct("<8s3i")
CUT = 16.0
"""How far below the likeliest class codes reach, in nats."""
LEAST_LEFT = 1e-3
"""Of the probability that classes beyond have at most, where the others seem to leave none."""
SUM_TOLERANCE = 2e-3


@dataclass(frozen=True)
class _File:
    file: BinaryFile
    n_ctx: int
    n_vocab: int
    n_chunk: int

    @property
    def first(self) -> int:
        return self.n_ctx // 2

    @property
    def row_bytes(self) -> int:
        return 2 * (2 * ((self.n_vocab + 1) // 2) + 4)

    @property
    def positions(self) -> int:
        return self.n_ctx - 1 - self.first

    def tokens(self, chunk: int) -> tuple[int, int]:
        """Where the tokens of a chunk lie."""
        start = HEAD.size + 4 * chunk * self.n_ctx
        return start, start + 4 * self.n_ctx

    def rows(self, chunk: int) -> tuple[int, int]:
        """Where its distributions lie."""
        size = self.positions * self.row_bytes
        start = HEAD.size + 4 * self.n_chunk * self.n_ctx + chunk * size
        return start, start + size


class LlamaCpp(Capture):
    """Files of llama-perplexity."""

    knows_every_class: ClassVar[bool] = True

    def __init__(self, paths: Sequence[str], options: ImportOptions) -> None:
        self.options = options
        self._files = [_opened(file) for file in find_local(paths)]
        classes = {one.n_vocab for one in self._files}
        if len(classes) > 1:
            raise CorpusError(f"the files have {' and '.join(map(str, sorted(classes)))} classes, expected one teacher")
        if options.classes > self._files[0].n_vocab and options.num_classes is not None:
            raise ConfigError(f"got --num-classes {options.classes}, expected at most {self._files[0].n_vocab}")
        step = options.rows_per_shard
        self._units = [
            (number, range(chunk, min(chunk + step, one.n_chunk)))
            for number, one in enumerate(self._files)
            for chunk in range(0, one.n_chunk, step)
        ]
        self._digests: dict[int, str] = {}

    @property
    def num_classes(self) -> int:
        return self._files[0].n_vocab

    @property
    def num_units(self) -> int:
        return len(self._units)

    @property
    def facts(self) -> dict[str, Any]:
        return {"rounded": f"16 bits, {CUT / 65535 / 2:.1e} nats", "cut_below_top_nats": CUT}

    def unit_sha256(self, index: int) -> str:
        if index not in self._digests:
            number, chunks = self._units[index]
            one = self._files[number]
            ranges = [
                (one.tokens(chunks[0])[0], one.tokens(chunks[-1])[1]),
                (one.rows(chunks[0])[0], one.rows(chunks[-1])[1]),
            ]
            self._digests[index] = hashlib.sha256(
                json.dumps([one.file.digest(*each) for each in ranges]).encode()
            ).hexdigest()
        return self._digests[index]

    def unit(self, index: int) -> Iterator[Captured]:
        number, chunks = self._units[index]
        for chunk in chunks:
            yield self._chunk(self._files[number], chunk)

    def check_unchanged(self) -> None:
        for one in self._files:
            one.file.check_unchanged()

    @property
    def pin(self) -> dict[str, Any]:
        digests = (self.unit_sha256(unit) for unit in range(self.num_units))
        return pin_of([one.file for one in self._files], digests, sum(one.n_chunk for one in self._files))

    def _chunk(self, one: _File, chunk: int) -> Captured:
        where = f"{one.file.name} chunk {chunk + 1}"
        tokens = np.frombuffer(one.file.read(*one.tokens(chunk), where), "<i4").astype(np.int64)
        bos = self.options.bos_token_id
        first = np.frombuffer(one.file.read(HEAD.size, HEAD.size + 4), "<i4")[0]
        if bos is not None and first == bos:
            tokens[0] = bos
        data = np.frombuffer(one.file.read(*one.rows(chunk), where), np.uint8).reshape(one.positions, one.row_bytes)
        positions = np.arange(one.first, one.n_ctx - 1)
        log_p_PV = _log_probs(data, one, where)[:, : min(self.options.classes, one.n_vocab)]
        none = np.zeros(0)
        return Captured(
            where, tokens, positions, np.zeros(len(positions), np.int64), none.astype(np.int64), none, log_p_PV
        )


def _opened(file: BinaryFile) -> _File:
    """Raises CorpusError for a file that is none of llama.cpp's, or is shorter or longer than it says."""
    magic, n_ctx, n_vocab, n_chunk = HEAD.unpack(file.read(0, HEAD.size, "its head"))
    if magic != MAGIC:
        raise CorpusError(f"{file.name} begins with {magic!r}, expected {MAGIC!r}: a file of --kl-divergence-base")
    if not (2 < n_ctx <= 1 << 24 and 1 < n_vocab <= 1 << 24 and 0 < n_chunk <= 1 << 24):
        raise CorpusError(
            f"{file.name} says n_ctx {n_ctx}, n_vocab {n_vocab}, n_chunk {n_chunk}, expected sizes of a capture"
        )
    one = _File(file, n_ctx, n_vocab, n_chunk)
    end = one.rows(n_chunk - 1)[1]
    if file.size < end:
        begin = one.rows(0)[0]
        chunk = max(file.size - begin, 0) // (one.positions * one.row_bytes) + 1
        place = f"in chunk {chunk} of {n_chunk}" if file.size > begin else "in its tokens"
        raise CorpusError(
            f"{file.name} has {file.size:,} bytes and ends {place}, expected {end:,}: it was cut short, or "
            "llama-perplexity was ended; copy it again, or capture again"
        )
    if file.size > end:
        raise CorpusError(f"{file.name} has {file.size:,} bytes, expected {end:,} as its head says: it is damaged")
    return one


def _log_probs(data: np.ndarray, one: _File, where: str) -> np.ndarray:
    """float64 [P, V], with what classes beyond the codes' reach share."""
    scale_P, minimum_P = np.ascontiguousarray(data[:, :8]).view("<f4").astype(np.float64).T
    codes_PV = np.ascontiguousarray(data[:, 8:]).view("<u2")[:, : one.n_vocab]
    sound_P = np.isfinite(scale_P) & np.isfinite(minimum_P) & (scale_P >= 0) & (scale_P <= CUT / 65535 * 1.001)
    log_p_PV = scale_P[:, None] * codes_PV + minimum_P[:, None]
    beyond_PV = (codes_PV == 0) & (scale_P >= CUT / 65535 * 0.999)[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        most_P = beyond_PV.sum(1) * np.exp(minimum_P)
        sums_P = np.where(beyond_PV, 0.0, np.exp(log_p_PV)).sum(1)
        sound_P &= (sums_P <= 1 + SUM_TOLERANCE) & (sums_P + most_P >= 1 - SUM_TOLERANCE)
    if not sound_P.all():
        p = int((~sound_P).argmax())
        raise CorpusError(
            f"{where}, position {one.first + p}: scale {scale_P[p]:g} and minimum {minimum_P[p]:g} give probabilities "
            f"that sum to {sums_P[p] + most_P[p]:.4g}, expected 1: the file is damaged"
        )
    left_P = np.clip(1 - sums_P, LEAST_LEFT * most_P, most_P)
    with np.errstate(divide="ignore"):
        each_P = np.log(left_P) - np.log(np.maximum(beyond_PV.sum(1), 1))
    return np.where(beyond_PV, each_P[:, None], log_p_PV)
