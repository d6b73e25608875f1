"""What a GPU would be asked for, counted on a CPU: numbers that the host reads, and masks used as an index."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.profiler import profile

from kdcache.targets.coded import Coded
from kdcache.targets.compress import compress_to_arrays
from kdcache.targets.plan import Plan
from kdcache.targets.records import record_kinds
from kdcache.targets.rows import Rows

WAITS = ("aten::_local_scalar_dense", "aten::nonzero")
READS = ("item", "tolist", "__bool__", "__int__", "__float__", "nonzero")
RECORDS: list[dict[str, Any]] = [
    {"kind": "sampled"},
    {"kind": "sampled", "exact_top_k": 0, "samples": 21, "curve": {"temperatures": [1.0]}},
    {"kind": "sampled", "logit_dtype": "uint8"},
    {"kind": "top_k", "k": 20},
    {"kind": "drawn"},
    {"kind": "dense"},
    {"kind": "captured", "k": 20},
]
LOGITS_PV = torch.randn(8, 500, generator=torch.Generator().manual_seed(0)) * 4


class Reading(TorchFunctionMode):
    def __init__(self) -> None:
        self.found: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in READS:
            self.found.append(function.__name__)
        return function(*args, **(kwargs or {}))


@contextmanager
def waits() -> Iterator[list[str]]:
    """What the host would have waited for inside, by name; filled at the end."""
    found: list[str] = []
    with Reading() as reading, profile() as seen:
        yield found
    found += [event.name for event in seen.events() if event.name in WAITS] + reading.found


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_nothing_is_asked_for_to_decode_records(record: dict[str, Any]) -> None:
    coded = Coded.of(record_kinds(record)[0], compress_to_arrays(LOGITS_PV, record), 500)
    coded.targets()
    with waits() as found:
        targets = coded.targets()
        targets.has_certain()
        targets.knows_top()
        targets.log_partition(1.0)
        targets.weights(1.0)
    assert found == []


@pytest.mark.parametrize("record", RECORDS[:5], ids=str)
def test_nothing_but_its_records_is_asked_for_in_a_block_of_rows(record: dict[str, Any]) -> None:
    """The records come in one go at the end (`_on_host`), which is the one wait on a GPU."""
    plan: Plan = record_kinds(record)[0].plan  # type: ignore[attr-defined]
    rows = Rows(500, plan, torch.device("cpu"))
    uniform_R = torch.rand(8, dtype=torch.float64)
    rows.block(LOGITS_PV, uniform_R)
    with waits() as found:
        rows.block(LOGITS_PV, uniform_R)
    assert found == []


def test_waits_are_seen() -> None:
    with waits() as found:
        LOGITS_PV[LOGITS_PV > 0]
        LOGITS_PV.sum().item()
        LOGITS_PV[0].tolist()
    assert {"aten::nonzero", "aten::_local_scalar_dense", "item", "tolist"} <= set(found)
