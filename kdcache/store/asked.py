"""What an expression may ask of examples: names and functions, each an array with a value for each example.

`kdcache filter --help` says what each one is. To add one, write a method of `Examples`, a line in NAMES or FUNCTIONS,
and one in that help.

B examples, P positions of all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kdcache.errors import CacheError
from kdcache.store.batch import Batch
from kdcache.store.manifest import Header
from kdcache.store.score import parts_of
from kdcache.store.unit import EXAMPLES_PER_UNIT
from kdcache.targets.fields import NO_LABEL
from kdcache.targets.philox import uniform
from kdcache.tasks.registry import task_of

__all__ = ["FUNCTIONS", "NAMES", "Asked", "Examples", "Type", "check_asked", "type_of"]

Type = Literal["truth", "number", "text"]


@dataclass(frozen=True)
class Asked:
    """What can be asked.

    Attributes:
        type: Of its values, where need be as a header says.
        fault: Why a cache cannot say it, of a header and what is given to it; None where it can.
    """

    type: "Type | Callable[[Header], Type]"
    fault: Callable[..., str | None] = lambda header: None


class Examples:
    """Some consecutive examples of a shard, and what is asked of them; each answer is computed once.

    Args:
        header: Of the cache.
        batch: Their arrays.
        unit: The number of the shard.
        first: The number of the first of them in it.
    """

    def __init__(self, header: Header, batch: Batch, unit: int, first: int) -> None:
        self.header, self.batch, self.unit_number = header, batch, unit
        self._first = first
        self._known: dict[tuple[Any, ...], Any] = {}

    def __len__(self) -> int:
        return len(self.batch)

    def get(self, name: str, *given: Any) -> Any:
        """The answer to a name or function: an array [B], or one value for all."""
        key = (name, *given)
        if key not in self._known:
            self._known[key] = getattr(self, name)(*given)
        return self._known[key]

    @property
    def counts_B(self) -> np.ndarray:
        return self.batch.arrays["position_counts"].astype(np.int64)

    def length(self) -> np.ndarray:
        return self.batch.lengths

    def positions(self) -> np.ndarray:
        return self.counts_B

    def documents(self) -> np.ndarray:
        return self.batch.arrays["document_counts"].astype(np.int64)

    def index(self) -> np.ndarray:
        return self._first + np.arange(len(self))

    def unit(self) -> int:
        return self.unit_number

    def number(self) -> np.ndarray:
        return self.unit_number * EXAMPLES_PER_UNIT + self.index()

    def source(self) -> int:
        ends = np.cumsum([pin.shards for pin in self.header.sources or ()])
        return int(np.searchsorted(ends, self.unit_number, side="right"))

    def random(self, seed: int) -> np.ndarray:
        keys_B3 = np.stack([np.full(len(self), seed), self.number(), np.zeros(len(self), np.int64)], 1)
        return uniform(keys_B3.astype(np.int64))

    def label(self) -> np.ndarray:
        counts_B, labels = self.counts_B, self.batch.labels
        if counts_B.max(initial=0) > 1:
            place = self.number()[int(counts_B.argmax())]
            raise CacheError(f"example {place} has {counts_B.max()} labels, expected one for label; ask has(NAME)")
        found_B = np.zeros(len(self), labels.dtype)
        found_B[counts_B > 0] = labels.reshape(len(labels), -1)[:, 0]
        if labels.dtype.kind not in "iu":
            return np.where(counts_B > 0, found_B, np.nan)
        names = np.array([*self.header.class_names, ""])  # the last one where none is known
        return names[np.where((counts_B > 0) & (found_B != NO_LABEL), found_B, -1)]

    def has(self, name: str) -> np.ndarray:
        index, labels = self.header.class_names.index(name), self.batch.labels
        is_P = labels == index if labels.ndim == 1 else labels[:, index] > 0.5
        return self._sums(is_P) > 0

    def agreement(self) -> np.ndarray:
        def agree(part: Batch) -> np.ndarray:
            targets = part.targets()
            sure_P = targets.knows_top_P.numpy() & (part.labels != NO_LABEL)
            return np.where(sure_P, (targets.top_P.numpy() == part.labels).astype(float), np.nan)

        agree_P = self._of_records(agree)
        known_P = ~np.isnan(agree_P)
        return self._sums(np.nan_to_num(agree_P)) / self._sums(known_P)

    def mean_entropy(self, temperature: float) -> np.ndarray:
        return self._sums(self._entropies(temperature)) / self.counts_B

    def max_entropy(self, temperature: float) -> np.ndarray:
        most_B = np.full(len(self), -np.inf)
        np.maximum.at(most_B, self._owners, self._entropies(temperature))
        return np.where(self.counts_B > 0, most_B, np.nan)

    def _entropies(self, temperature: float) -> np.ndarray:
        return self._of_records(lambda part: part.targets().entropy(float(temperature)).double().numpy())

    def _of_records(self, ask: Callable[[Batch], np.ndarray]) -> np.ndarray:
        """A number for each position, of some examples at a time: decoded records are large."""
        kind = self.header.distribution
        assert kind is not None
        width = kind.numbers_per_position(self.header.num_classes)
        return np.concatenate([np.zeros(0), *(ask(part) for part in parts_of(self.batch, width))])

    @property
    def _owners(self) -> np.ndarray:
        return np.repeat(np.arange(len(self)), self.counts_B)

    def _sums(self, values_P: np.ndarray) -> np.ndarray:
        return np.bincount(self._owners, values_P.astype(float), minlength=len(self))


def type_of(asked: Asked, header: Header) -> Type:
    """Of the values of what is asked of a cache."""
    return asked.type(header) if callable(asked.type) else asked.type


def check_asked(header: Header, name: str, asked: Asked, given: Sequence[Any]) -> None:
    """Raises ValueError with what is wrong, where a cache cannot answer."""
    try:
        fault = asked.fault(header, *given)
    except TypeError:
        raise ValueError(f"got {len(given)} values for {name}, expected another number of them") from None
    if fault:
        raise ValueError(fault)


def _no_records(header: Header) -> str | None:
    if header.distribution is None:
        return "the cache holds labels and no distributions of a teacher"
    return None if task_of(header.task).distributions else "the teacher's outputs are numbers, and no distribution"


def _no_entropy(header: Header, temperature: object) -> str | None:
    if isinstance(temperature, str) or not isinstance(temperature, int | float) or not temperature > 0:
        return f"got a temperature {temperature!r}, expected a number above 0"
    if fault := _no_records(header):
        return fault
    assert header.distribution is not None
    if not header.distribution.answers(float(temperature)):
        return f"its records do not answer the temperature {temperature:g}"
    return None


def _no_label(header: Header) -> str | None:
    if task_of(header.task).generates:
        return "the labels of a language model are the next tokens"
    if any(field.shape and field.shape[-1] > 1 for field in header.fields if field.name == "labels"):
        return "an example has several labels at once; ask has(NAME)"
    return None


def _type_of_label(header: Header) -> Type:
    labels = next((field for field in header.fields if field.name == "labels"), None)
    return "number" if labels is not None and labels.shape else "text"


def _not_had(header: Header, name: object) -> str | None:
    if task_of(header.task).generates:
        return "the labels of a language model are the next tokens"
    names = header.class_names
    return None if name in names else f"got the class {name!r}, expected one of {', '.join(names[:12]) or 'none'}"


def _not_merged(header: Header) -> str | None:
    sources = header.sources
    return None if sources and sources[0].where is None else "the cache was not merged of several"


def _no_seed(header: Header, seed: object) -> str | None:
    return None if type(seed) is int and 0 <= seed < 1 << 63 else f"got the seed {seed!r}, expected a whole number"


NAMES: dict[str, Asked] = {
    "length": Asked("number"),
    "positions": Asked("number"),
    "documents": Asked("number"),
    "number": Asked("number"),
    "unit": Asked("number"),
    "index": Asked("number"),
    "source": Asked("number", _not_merged),
    "label": Asked(_type_of_label, _no_label),
    "agreement": Asked("number", _no_records),
}
FUNCTIONS: dict[str, Asked] = {
    "mean_entropy": Asked("number", _no_entropy),
    "max_entropy": Asked("number", _no_entropy),
    "has": Asked("truth", _not_had),
    "random": Asked("number", _no_seed),
}
