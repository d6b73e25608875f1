"""A teacher that is no network, as an engine of one's own: `module: extending.bigrams`.

It says of each token what followed it in a text that it has counted. It has no hidden states.

P positions, V classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

import kdcache
from kdcache.dump.engines import Engine, EngineSettings, Rows, Wanted
from kdcache.errors import TeacherError
from kdcache.tasks import Example


class Bigrams(Engine):
    """log (1 + how often) of each pair of ids."""

    def __init__(self, wanted: Wanted, text: str) -> None:
        self.device, self.num_classes = torch.device("cpu"), wanted.num_classes
        ids = torch.tensor(wanted.fed_with(text)["input_ids"])
        counts_VV = torch.zeros(self.num_classes, self.num_classes)
        counts_VV.index_put_((ids[:-1], ids[1:]), torch.ones(len(ids) - 1), accumulate=True)
        self.logits_VV = counts_VV.log1p()

    def rows_of(self, examples: Sequence[Example], *, transient: bool = False) -> Iterator[Rows]:
        tokens_P = torch.cat([torch.from_numpy(example.tokens[example.positions]) for example in examples])
        yield slice(0, len(tokens_P)), self.logits_VV[tokens_P], None

    def hidden_of(self, examples: Sequence[Example]) -> Tensor:
        raise TeacherError("got a record of hidden states for bigrams, which have none, expected another record.kind")

    def output_layer(self) -> Any:
        raise TeacherError("got a factored record for bigrams, which have no output layer, expected another kind")

    def try_out(self, wanted: Wanted, longest: int) -> None:
        """Nothing: a row depends on one token."""

    @property
    def ways(self) -> dict[str, Any]:
        return {}

    def run_as(self, ways: Mapping[str, Any]) -> None:
        """There is one way."""


class BigramSettings(EngineSettings):
    """text: what is counted."""

    kind: Literal["bigrams"] = "bigrams"
    text: str

    def load(self, wanted: Wanted) -> Engine:
        return Bigrams(wanted, self.text)


kdcache.register_engine("bigrams", BigramSettings)
