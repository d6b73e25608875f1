"""ImportOptions: what a user says of a capture that the capture does not say itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kdcache.errors import ConfigError

__all__ = ["ImportOptions"]


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What `kdcache import` is told.

    Attributes:
        tokenizer: The folder of the tokenizer whose ids the capture has.
        vocab_size: Its highest id + 1; `import_capture` fills it in.
        bos_token_id: Its token for the beginning of a text, likewise; None for none.
        num_classes: V, by default vocab_size.
        temperature: Of the softmax that the log-probabilities are of.
        tail: As of captured records; None lets the data say that it was renormalised, and refuses it then.
        top_k: How many entries of a position are kept, by default as many as positions have.
        short_rows: Whether a position may have fewer entries than the others.
        shift: By how many tokens positions are to be moved.
        check_alignment: Whether to refuse a capture whose likeliest classes fit the tokens better when moved.
        logprobs_field: The field of JSONL rows that holds the log-probabilities, where it has a name of its own.
        compression_config: The file of a DistillKit capture that says how it is compressed.
        tokens: A .npy file of the tokens, of a capture that has none.
        record: Of captures that know every class, what is made of them.
        rows_per_shard: Rows, chunks or iterations of the input that become one shard.
    """

    tokenizer: str
    vocab_size: int = 0
    bos_token_id: int | None = None
    num_classes: int | None = None
    temperature: float = 1.0
    tail: Literal["ghost", "renormalise"] | None = None
    top_k: int | None = None
    short_rows: bool = False
    shift: int = 0
    check_alignment: bool = True
    logprobs_field: str | None = None
    compression_config: str | None = None
    tokens: str | None = None
    record: Mapping[str, Any] | None = None
    rows_per_shard: int = 32

    def __post_init__(self) -> None:
        if not 0.05 <= self.temperature < float("inf"):
            raise ConfigError(f"got --temperature {self.temperature:g}, expected a number of 0.05 or more")
        if self.top_k is not None and not 1 <= self.top_k <= 32768:
            raise ConfigError(f"got --top-k {self.top_k}, expected 1 to 32768")
        if self.rows_per_shard < 1:
            raise ConfigError(f"got --rows-per-shard {self.rows_per_shard}, expected 1 or more")

    @property
    def classes(self) -> int:
        """V."""
        return self.num_classes or self.vocab_size
