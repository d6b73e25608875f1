"""CorpusCapture: what captures have in common whose files the corpus room reads: JSONL, compressed or not, and Parquet.

Files, folders, globs and URLs, the digests of units, the places of rows, and what is said of damaged files are the
corpus' own.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from kdcache.corpus import Column, open_corpus
from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import ConfigError
from kdcache.imports.capture import Capture, Captured
from kdcache.imports.options import ImportOptions

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CorpusCapture", "corpus_config"]


def corpus_config(paths: Sequence[str], format: Literal["jsonl", "parquet"], rows: int) -> CorpusConfig:
    """Raises ConfigError for paths that say nothing."""
    try:
        return CorpusConfig(paths=tuple(paths), format=format, unit_rows=rows)
    except ValidationError as error:
        raise ConfigError(f"FILES: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


class CorpusCapture(Capture):
    """A subclass opens it with its columns, and makes texts of a row."""

    def _open(
        self, paths: Sequence[str], options: ImportOptions, format: Literal["jsonl", "parquet"], names: Sequence[str]
    ) -> None:
        required = format == "parquet"
        columns = [Column(name, f"{name} of the capture", required=required, kind="json") for name in names]
        self.options = options
        self._corpus = open_corpus(corpus_config(paths, format, options.rows_per_shard), columns)

    @abstractmethod
    def texts(self, row: dict[str, Any], where: str) -> Iterator[Captured]:
        """Of the columns of a row, as `_row` gives them."""

    def _row(self, table: "pa.Table", row: int) -> dict[str, Any]:
        """Columns of a row that are not null, as Arrow scalars."""
        scalars = {name: table[name][row] for name in table.column_names}
        return {name: scalar for name, scalar in scalars.items() if scalar.is_valid}

    @property
    def num_units(self) -> int:
        return self._corpus.num_units

    def unit(self, index: int) -> Iterator[Captured]:
        table = self._corpus.unit(index)
        for row in range(len(table)):
            yield from self.texts(self._row(table, row), self._corpus.where(index, row))

    def unit_sha256(self, index: int) -> str:
        return self._corpus.unit_sha256(index)

    def check_unchanged(self) -> None:
        self._corpus.check_unchanged()

    @property
    def pin(self) -> dict[str, Any]:
        return self._corpus.pin
