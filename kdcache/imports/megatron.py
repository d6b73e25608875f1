"""Megatron: the tar shards of Megatron-LM's offline logits (--logits-save-dir), top-k or top-p log-probabilities.

The layout (NVIDIA/Megatron-LM, docs/user-guide/features/offline_logits_distillation.md, and
megatron/training/distillation: logits_saver.py and utils.py): an uncompressed tar for each data-parallel rank and
flush, whose first member is `_meta.json` ("saver": k, p, save_dtype, and of version 2 mbs_save, dp_size_save, gbs_save,
format_version), and then a zstd-compressed `torch.save` for each iteration:

    version 2   dp{D}__{start}-{end}.tar      {start}-{end}.pt.zst    samples by their number in the whole run
    version 1   dp{D}__{last}.tar, or with cp0_ before it             {iteration}.pt.zst

    values        float [S, N, K] log-probabilities of N samples of S tokens (version 1: a list, one each micro-batch)
    indices_low   uint16, the lower 16 bits of the classes
    bit_17        their 17th bits: bool of the same shape, or uint8 of numpy.packbits over all of them in order

Entries that top-p left out have the value −10⁴. Sample r of rank D is number ((r // M) · DP + D) · M + r mod M of its
iteration, with M samples in a micro-batch and DP ranks. The distribution at token s is of the token after it.

**The shards have no tokens.** Give them as `--tokens FILE.npy`: integers [samples, S] or [samples, S + 1], in the order
of the training run, the first sample of the shards in row 0 (with S + 1 the last distribution is used too; Megatron's
own samples have S + 1). Whether they are the right ones the alignment tells.

Not read: version 3 (`….targets.tar` beside `….inputs.tar`), whose payload no description explains, and shards of
context-parallel ranks above 0 of version 1. In what order `bit_17` is packed stands in no description either; it is
taken as numpy does it. One iteration of all ranks is in memory at a time.

P positions, K entries, S tokens, N samples.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.errors import ConfigError, CorpusError, one_line
from kdcache.imports.binary_files import BinaryFile, find_local, pin_of
from kdcache.imports.capture import SENTINEL, Capture, Captured
from kdcache.imports.options import ImportOptions

__all__ = ["Megatron"]

SHARD = re.compile(r"^(?:cp(?P<cp>\d+)_)?dp(?P<dp>\d+)__(?:(?P<start>\d+)-)?(?P<end>\d+)\.tar$")
MEMBER = re.compile(r"^(?:(?P<start>\d+)-)?(?P<end>\d+)\.pt\.zst$")
META = "_meta.json"
TOLERANCES = {"fp16": 5e-3, "bf16": 4e-2, "fp32": 1e-3}
LARGEST = 16 << 30
"""Bytes of an iteration of a rank."""
Member = tuple[BinaryFile, int, int]
"""A file, and where the payload lies in it."""


class Megatron(Capture):
    """Tar shards of Megatron-LM."""

    def __init__(self, paths: Sequence[str], options: ImportOptions) -> None:
        self.options = options
        self._files = find_local(paths, ".tar")
        self._saver: dict[str, Any] = {}
        members: dict[tuple[int, int], dict[int, Member]] = {}
        for file in self._files:
            self._index(file, members)
        if not members:
            raise CorpusError(f"{self._files[0].name} has no iteration in it, expected NUMBER.pt.zst")
        self._iterations = sorted(members.items())
        self._ranks = int(self._saver.get("dp_size_save") or 1 + max(max(ranks) for _, ranks in self._iterations))
        self.sum_tolerance = TOLERANCES.get(str(self._saver.get("save_dtype")), 5e-3)
        self._check_complete()
        self._tokens = _tokens(options)
        self._tokens_file = BinaryFile(Path(str(options.tokens)))
        self._tokens_sha256 = self._tokens_file.digest(0, self._tokens_file.size)
        self._digests: dict[int, str] = {}

    @property
    def num_units(self) -> int:
        return len(self._iterations)

    @property
    def short_rows(self) -> bool:
        return self._saver.get("p") is not None

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "rounded": str(self._saver.get("save_dtype", "unknown")),
            "top_p": self._saver.get("p"),
            "tokens_sha256": self._tokens_sha256,
        }

    def unit_sha256(self, index: int) -> str:
        if index not in self._digests:
            digest = hashlib.sha256()
            for _, (file, start, stop) in sorted(self._iterations[index][1].items()):
                digest.update(file.digest(start, stop).encode())
            self._digests[index] = digest.hexdigest()
        return self._digests[index]

    def check_unchanged(self) -> None:
        for file in (*self._files, self._tokens_file):
            file.check_unchanged()

    @property
    def pin(self) -> dict[str, Any]:
        units = [self.unit_sha256(unit) for unit in range(self.num_units)]
        return pin_of(self._files, [*units, self._tokens_sha256], len(self._tokens))

    def unit(self, index: int) -> Iterator[Captured]:
        (start, end), ranks = self._iterations[index]
        loaded = {rank: _payload(member, f"{member[0].name} {_name(start, end)}") for rank, member in ranks.items()}
        sizes = {values.shape[1] for values, _, _ in loaded.values()}
        if len(sizes) > 1:
            raise CorpusError(f"{_name(start, end)} has {sizes} samples by rank, expected as many in each")
        per_rank = sizes.pop()
        total = per_rank * self._ranks
        first = start - self._iterations[0][0][0] if start >= 0 else index * total
        for number in range(total):
            micro = int(self._saver.get("mbs_save") or loaded[0][2])
            block, within = divmod(number, micro)
            rank, row = block % self._ranks, block // self._ranks * micro + within
            values, ids, _ = loaded[rank]
            where = f"{ranks[rank][0].name} {_name(start, end)} sample {row + 1}"
            yield self._text(values[:, row], ids[:, row], first + number, where)

    def _text(self, values_SK: np.ndarray, ids_SK: np.ndarray, sample: int, where: str) -> Captured:
        if sample >= len(self._tokens):
            raise CorpusError(
                f"{where} is sample {sample + 1:,} of the shards, and {self.options.tokens} has {len(self._tokens):,}, "
                "expected a row of tokens for each"
            )
        tokens = np.asarray(self._tokens[sample], np.int64)
        if len(tokens) - len(values_SK) not in (0, 1):
            raise CorpusError(
                f"{where} has {len(values_SK)} tokens, and a row of {self.options.tokens} {len(tokens)}, expected as "
                "many or one more"
            )
        P = len(tokens) - 1
        kept_PK = values_SK[:P] > SENTINEL
        kept_PK |= np.isnan(values_SK[:P])
        return Captured(
            where, tokens, np.arange(P), kept_PK.sum(1), ids_SK[:P][kept_PK], values_SK[:P][kept_PK].astype(np.float64)
        )

    def _index(self, file: BinaryFile, members: dict[tuple[int, int], dict[int, Member]]) -> None:
        """Find the iterations of a shard. Raises CorpusError for one that is damaged or of another kind."""
        match = SHARD.match(file.name)
        if match is None:
            version = ": version 3, whose payload no description explains" if ".targets." in file.name else ""
            raise CorpusError(f"got {file.name}, expected the name of a shard, dp0__0-64.tar or dp0__100.tar{version}")
        if int(match["cp"] or 0):
            raise CorpusError(f"{file.name} is of context-parallel rank {match['cp']}, expected rank 0 alone")
        found, end = _members(file)
        if META not in found:
            raise CorpusError(f"{file.name} has no {META}, expected it as its first member")
        for name, (start, stop) in found.items():
            if name == META:
                self._meta(file, start, stop)
            elif (member := MEMBER.match(name)) is not None:
                key = (-1 if member["start"] is None else int(member["start"]), int(member["end"]))
                if members.setdefault(key, {}).setdefault(int(match["dp"]), (file, start, stop))[0] is not file:
                    raise CorpusError(f"{file.name} has {name} of rank {match['dp']} again, expected it in one shard")
        _check_end(file, end)

    def _meta(self, file: BinaryFile, start: int, stop: int) -> None:
        try:
            saver = json.loads(file.read(start, stop))["saver"]
        except (ValueError, KeyError, TypeError):
            raise CorpusError(f'{file.name}: {META} is not JSON with "saver", expected that of Megatron-LM') from None
        if self._saver and saver != self._saver:
            raise CorpusError(
                f"{file.name} was saved with other settings than {self._files[0].name}, expected the same"
            )
        self._saver = saver
        if int(saver.get("format_version") or 1) > 2:
            raise CorpusError(f"{file.name} has format version {saver['format_version']}, expected 1 or 2")

    def _check_complete(self) -> None:
        for (start, end), ranks in self._iterations:
            if missing := sorted({*range(self._ranks)} - {*ranks}):
                raise CorpusError(
                    f"{_name(start, end)} has no shard of data-parallel rank {missing[0]}, expected {self._ranks} ranks"
                )
        for ((_, before), _), ((start, end), _) in zip(self._iterations, self._iterations[1:], strict=False):
            if start >= 0 and start != before:
                raise CorpusError(f"samples {before} to {start} are in no shard, before {_name(start, end)}")


def _members(file: BinaryFile) -> tuple[dict[str, tuple[int, int]], int]:
    """Name -> where its bytes lie, and where the last ends."""
    found: dict[str, tuple[int, int]] = {}
    end = 0
    try:
        with tarfile.open(file.path, "r:") as tar:
            for one in tar:
                found[one.name] = (one.offset_data, one.offset_data + one.size)
                end = one.offset_data + -(-one.size // 512) * 512
    except (tarfile.TarError, OSError, EOFError) as error:
        last = f" after {[*found][-1]}" if found else ""
        raise CorpusError(f"{file.name} is no whole tar file{last}: {one_line(error)}; copy it again") from None
    return found, end


def _check_end(file: BinaryFile, end: int) -> None:
    """A tar ends with two blocks of zeros: one that was cut between two members does not."""
    if file.size < end + 1024 or any(file.read(end, end + 1024)):
        raise CorpusError(
            f"{file.name} ends at byte {file.size:,} without the mark of its end, expected {end + 1024:,} bytes or "
            "more: it was cut short; copy it again"
        )


def _payload(member: Member, where: str) -> tuple[np.ndarray, np.ndarray, int]:
    """values [S, N, K] and class ids, and the samples of a micro-batch. Raises CorpusError for what is damaged."""
    import pyarrow as pa
    import torch

    file, start, stop = member
    try:
        stream = pa.CompressedInputStream(pa.BufferReader(file.read(start, stop)), "zstd")
        data = stream.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise CorpusError(f"{where} decompresses to more than {LARGEST:,} bytes, expected one iteration of a rank")
        tensors = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except CorpusError:
        raise
    except Exception as error:  # torch and zstd raise many classes for a damaged file
        raise CorpusError(f"{where} is damaged: {one_line(error, 200)}; copy it again") from None
    try:
        listed = isinstance(tensors["values"], list)
        parts = [
            [one] if not listed else one for one in (tensors[name] for name in ("values", "indices_low", "bit_17"))
        ]
        values = torch.cat(parts[0], 1).float().numpy()
        low = torch.cat([one.to(torch.int64) for one in parts[1]], 1).numpy()
        high = np.concatenate([_bits(bits, one.shape) for bits, one in zip(parts[2], parts[1], strict=True)], 1)
        if values.ndim != 3 or values.shape != low.shape:
            raise ValueError(f"values are {list(values.shape)} and indices {list(low.shape)}")
        return values, low | high.astype(np.int64) << 16, int(parts[0][0].shape[1])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        raise CorpusError(f"{where} holds no values, indices_low and bit_17 that fit: {one_line(error, 200)}") from None


def _bits(bits: Any, shape: Any) -> np.ndarray:
    """bool of the shape: as they are, or packed."""
    found: np.ndarray = bits.numpy()
    if found.dtype == np.uint8:
        size = int(np.prod(shape))
        if found.size != -(-size // 8):
            raise ValueError(f"bit_17 has {found.size} bytes, expected {-(-size // 8)}")
        found = np.unpackbits(found.reshape(-1))[:size]
    return found.reshape(tuple(shape)).astype(bool)


def _tokens(options: ImportOptions) -> np.ndarray:
    """The rows of --tokens, on disk. Raises ConfigError where there are none."""
    if options.tokens is None:
        raise ConfigError(
            "the shards have no tokens, expected them as --tokens FILE.npy: integers [samples, tokens], in the order "
            "of the run that saved the shards"
        )
    try:
        tokens: np.ndarray = np.load(options.tokens, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(
            f"cannot read --tokens {options.tokens}: {one_line(error, 200)}; expected a .npy file"
        ) from None
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
        raise ConfigError(
            f"--tokens {options.tokens} is {tokens.dtype}{[*tokens.shape]}, expected integers [samples, tokens]"
        )
    return tokens


def _name(start: int, end: int) -> str:
    return f"iteration {end}" if start < 0 else f"samples {start}-{end}"
