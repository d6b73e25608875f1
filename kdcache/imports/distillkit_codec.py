"""How DistillKit compresses the log-probabilities of a position, most likely class first, and the way back.

Its bytes (arcee-ai/DistillKit, distillkit/compression/config.py and monotonic_logprobs.py), one part after the other:

    exact_k numbers of exact_dtype
    a coefficient of term_dtype for each of polynomial_terms, of a fit to the other k − exact_k numbers n: at t = 0, 1,
        … (with normalize_t from 0 to 1) the sum of coefficient · t^term, or √t ("sqrt") and e^t ("exp")
    for each of residual_bins: a scale of scale_dtype, and num_elements codes of element_bits, packed highest bit first,
        what the fit leaves of n: (code − 2^(bits − 1)) · scale, with one bit (2 · code − 1) · scale

With delta_encoding each number but the first is the difference from the one before. Numbers are little-endian.

P positions, K entries of each, B bytes.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kdcache.errors import ConfigError, CorpusError

__all__ = ["Compression", "bits_of_ids", "read_compression"]

Dtype = Literal["float16", "bfloat16", "float32", "float64"]
WIDTHS = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


class Bin(BaseModel):
    model_config = ConfigDict(frozen=True)

    scale_dtype: Dtype
    element_bits: Annotated[int, Field(ge=1, le=63)]
    num_elements: Annotated[int, Field(ge=1, le=1 << 20)]

    @property
    def packed(self) -> int:
        """Bytes of its codes."""
        return (self.element_bits * self.num_elements + 7) // 8


class Compression(BaseModel):
    """compression_config.yaml."""

    model_config = ConfigDict(frozen=True)

    d: Annotated[int, Field(ge=2, le=1 << 24)]
    k: Annotated[int, Field(ge=1, le=32768)]
    exact_k: Annotated[int, Field(ge=0)]
    exact_dtype: Dtype = "float32"
    polynomial_terms: tuple[Literal["sqrt", "exp"] | int, ...] | None = None
    term_dtype: Dtype = "float32"
    residual_bins: tuple[Bin, ...] = ()
    delta_encoding: bool = True
    normalize_t: bool = False

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.exact_k > self.k or sum(one.num_elements for one in self.residual_bins) > self.k - self.exact_k:
            raise ValueError(f"got exact_k {self.exact_k} and residual_bins of more numbers than k {self.k} has")
        return self

    @property
    def num_bytes(self) -> int:
        """Of a position."""
        terms = len(self.polynomial_terms or ()) * WIDTHS[self.term_dtype]
        bins = sum(WIDTHS[one.scale_dtype] + one.packed for one in self.residual_bins)
        return self.exact_k * WIDTHS[self.exact_dtype] + terms + bins

    def log_probs(self, bytes_PB: np.ndarray, where: str) -> np.ndarray:
        """float64 [P, K]. Raises CorpusError for rows of another length."""
        _check_width(bytes_PB, self.num_bytes, "compressed_logprobs", where)
        parts = _Parts(bytes_PB)
        exact_PK = parts.floats(self.exact_k, self.exact_dtype)
        rest_PK = np.zeros((len(bytes_PB), self.k - self.exact_k))
        if self.polynomial_terms:
            coefficients = parts.floats(len(self.polynomial_terms), self.term_dtype)
            rest_PK += coefficients @ self._terms(rest_PK.shape[1]).T
        at = 0
        for one in self.residual_bins:
            scale_P1 = parts.floats(1, one.scale_dtype)
            codes = _unpacked(parts.take(one.packed), one.element_bits, one.num_elements).astype(np.float64)
            codes = 2 * codes - 1 if one.element_bits == 1 else codes - 2.0 ** (one.element_bits - 1)
            rest_PK[:, at : at + one.num_elements] += codes * scale_P1
            at += one.num_elements
        found = np.concatenate([exact_PK, rest_PK], 1)
        return found.cumsum(1) if self.delta_encoding else found

    def _terms(self, count: int) -> np.ndarray:
        t = np.linspace(0, 1, count) if self.normalize_t else np.arange(count, dtype=np.float64)
        assert self.polynomial_terms is not None
        special = {"sqrt": np.sqrt, "exp": np.exp}
        return np.stack([special[one](t) if isinstance(one, str) else t**one for one in self.polynomial_terms], 1)


class _Parts:
    """Bytes that are taken one part after the other."""

    def __init__(self, bytes_PB: np.ndarray) -> None:
        self.bytes_PB, self.at = bytes_PB.astype(np.uint8), 0

    def take(self, count: int) -> np.ndarray:
        self.at += count
        return np.ascontiguousarray(self.bytes_PB[:, self.at - count : self.at])

    def floats(self, count: int, dtype: Dtype) -> np.ndarray:
        data = self.take(count * WIDTHS[dtype])
        if not count:
            return np.zeros((len(data), 0))
        if dtype == "bfloat16":
            return (data.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return data.view(f"<f{WIDTHS[dtype]}").astype(np.float64)


def bits_of_ids(bytes_PB: np.ndarray, compression: Compression, where: str) -> np.ndarray:
    """Class ids, int64 [P, K]."""
    bits = int(np.ceil(np.log2(np.float32(compression.d))))
    _check_width(bytes_PB, (compression.k * bits + 7) // 8, "bytepacked_indices", where)
    return _unpacked(bytes_PB.astype(np.uint8), bits, compression.k)


def _unpacked(bytes_PB: np.ndarray, bits: int, count: int) -> np.ndarray:
    """int64 [P, count] of so many bits each, highest first."""
    flat = np.unpackbits(bytes_PB, axis=1)[:, : bits * count].reshape(len(bytes_PB), count, bits)
    return flat.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))


def _check_width(bytes_PB: np.ndarray, expected: int, name: str, where: str) -> None:
    if len(bytes_PB) and bytes_PB.shape[1] != expected:
        raise CorpusError(
            f"{where}: {name} has {bytes_PB.shape[1]} bytes for each position, expected {expected} as "
            "compression_config.yaml says: it is of another capture, or damaged"
        )


def read_compression(path: Path) -> Compression:
    """Raises ConfigError for a file that is not there or says something else."""
    try:
        return Compression.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}; see --compression-config") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(f"{path} is no YAML, expected the compression_config.yaml of DistillKit") from None
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise ConfigError(f"{path}: {key} {fault['msg'].removeprefix('Value error, ')}") from None
