"""DistillKit: the Parquet files of its offline captures, likeliest classes with compressed log-probabilities.

The layout (arcee-ai/DistillKit, distillkit/sample_common.py: compressed_logit_schema and StreamingParquetWriter;
sample_logits_vllm.py; compression/config.py, compressor.py, monotonic_logprobs.py, bitpack.py): a folder of
`data_0.parquet`, `data_1.parquet`, …, each of rows

    input_ids             list<uint64>        [L]
    compressed_logprobs   list<list<uint8>>   [L − 1][bytes]
    bytepacked_indices    list<list<uint8>>   [L − 1][bytes], k class ids of ⌈log2 d⌉ bits, highest bit first

beside `compression_config.yaml`, which says d, k and how log-probabilities are compressed (distillkit_codec.py).
Captures without compression have `token_ids` and `top_values`, both list<list<…>> [L − 1][k], in place of the last two
columns.

Row i is what vLLM's prompt_logprobs say of token i + 1: the distribution at position i, of raw log-probabilities at
T = 1. The legacy form (packed_indices, exact_values, coeffs) is refused.

Compression is lossy: log-probabilities may come back with a sum above 1, by up to 5%, which is scaled back and counted
in the notes. Decoded in float64, DistillKit itself does so in the dtype of the exact values.

P positions, E entries, flat.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.corpus.files import find_files
from kdcache.corpus.parquet_footer import FooterError, read_footer
from kdcache.errors import ConfigError, CorpusError
from kdcache.imports.capture import Captured
from kdcache.imports.corpus_capture import CorpusCapture, corpus_config
from kdcache.imports.distillkit_codec import Compression, bits_of_ids, read_compression
from kdcache.imports.options import ImportOptions

__all__ = ["DistillKit"]

PACKED, PLAIN = ("compressed_logprobs", "bytepacked_indices"), ("top_values", "token_ids")
CONFIG = "compression_config.yaml"


class DistillKit(CorpusCapture):
    """Offline captures of DistillKit."""

    def __init__(self, paths: Sequence[str], options: ImportOptions) -> None:
        names = _columns(paths, options)
        self._compression: Compression | None = None
        if "compressed_logprobs" in names:
            self._compression = read_compression(_config(paths, options))
            self.sum_tolerance = 0.05
        self._names = names
        self._open(paths, options, "parquet", ("input_ids", *names))

    @property
    def top_k(self) -> int | None:
        return None if self._compression is None else self._compression.k

    @property
    def facts(self) -> dict[str, Any]:
        if self._compression is None:
            return {"rounded": "as the file has them"}
        return {"rounded": "by its compression", "compression": self._compression.model_dump(mode="json")}

    def texts(self, row: dict[str, Any], where: str) -> Iterator[Captured]:
        missing = [name for name in ("input_ids", *self._names) if name not in row]
        if missing:
            raise CorpusError(f"{where}: {missing[0]} is null, expected a list")
        tokens = _numbers(row["input_ids"], where, "input_ids").astype(np.int64)
        values_PB, ids_PB = (_matrix(row[name], where, name) for name in self._names)
        P = len(values_PB)
        if len(ids_PB) != P or len(tokens) < P:
            raise CorpusError(
                f"{where}: {self._names[0]} has {P} rows and {self._names[1]} {len(ids_PB)}, expected as many, at most "
                f"one for each of {len(tokens)} tokens"
            )
        if self._compression is None:
            ids_PK, log_p_PK = ids_PB.astype(np.int64), values_PB.astype(np.float64)
            if P and ids_PK.shape != log_p_PK.shape:
                raise CorpusError(f"{where}: token_ids and top_values have other lengths, expected the same")
        else:
            log_p_PK = self._compression.log_probs(values_PB, where)
            ids_PK = bits_of_ids(ids_PB, self._compression, where)
        P = min(P, len(tokens) - 1)
        counts_P = np.full(P, ids_PK.shape[1] if P else 0, np.int64)
        yield Captured(where, tokens, np.arange(P), counts_P, ids_PK[:P].reshape(-1), log_p_PK[:P].reshape(-1))


def _columns(paths: Sequence[str], options: ImportOptions) -> tuple[str, str]:
    """Those that the first file has. Raises CorpusError for a file that is no capture."""
    file = find_files(corpus_config(paths, "parquet", options.rows_per_shard))[0]
    with file.open() as stream:
        try:
            fields = read_footer(stream, file.size)["fields"]
        except FooterError as error:
            raise CorpusError(f"{file.name} is no Parquet file, or was cut short: {error}") from None
    for names in (PACKED, PLAIN):
        if set(names) <= set(fields):
            return names
    hint = ": the legacy form, which no description explains; capture again" if "packed_indices" in fields else ""
    raise CorpusError(
        f"{file.name} has the columns {', '.join(fields)}, expected input_ids with {' and '.join(PACKED)}, or with "
        f"{' and '.join(PLAIN)}{hint}"
    )


def _config(paths: Sequence[str], options: ImportOptions) -> Path:
    if options.compression_config is not None:
        return Path(options.compression_config)
    folder = Path(paths[0]) if Path(paths[0]).is_dir() else Path(paths[0]).parent
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            f"{folder} has no {CONFIG}, expected it beside the Parquet files, where DistillKit writes it: name the "
            "file as --compression-config"
        )
    return folder / CONFIG


def _numbers(scalar: Any, where: str, name: str) -> np.ndarray:
    """The numbers of a list. Raises CorpusError for nulls and anything else."""
    values = getattr(scalar, "values", None)
    if values is None or values.null_count:
        raise CorpusError(f"{where}: {name} is {scalar.type} or has nulls, expected a list of numbers")
    found: np.ndarray = values.to_numpy(zero_copy_only=False)
    if found.dtype.kind not in "iuf":
        raise CorpusError(f"{where}: {name} is {scalar.type}, expected a list of numbers")
    return found


def _matrix(scalar: Any, where: str, name: str) -> np.ndarray:
    """The numbers of a list of lists of one length, [P, B]."""
    lists = getattr(scalar, "values", None)
    if lists is None or not hasattr(lists, "value_lengths") or lists.null_count:
        raise CorpusError(f"{where}: {name} is {scalar.type} or has nulls, expected a list of lists of numbers")
    lengths = np.unique(lists.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) > 1:
        raise CorpusError(f"{where}: {name} has rows of {lengths[0]} to {lengths[-1]} items, expected one length")
    flat = lists.flatten()
    if flat.null_count:
        raise CorpusError(f"{where}: {name} has nulls, expected numbers")
    found: np.ndarray = flat.to_numpy(zero_copy_only=False)
    if found.dtype.kind not in "iuf":
        raise CorpusError(f"{where}: {name} is {scalar.type}, expected a list of lists of numbers")
    return found.reshape(len(lists), -1) if len(lists) else found.reshape(0, 0)
