"""Rows of logits and the plain float64 answers, as fixtures."""

from collections.abc import Callable, Iterator

import pytest
import rows as rows_of_logits
from torch import Tensor


@pytest.fixture(scope="session")
def rows() -> Callable[..., Tensor]:
    """rows(shape, P, V, seed=0): float32 logits [P, V]."""
    return rows_of_logits.make_rows


@pytest.fixture(scope="session")
def plain() -> Callable[[Tensor, float], tuple[Tensor, Tensor, Tensor]]:
    """plain(logits, T): log p [P, V], log-partition [P] and entropy [P] in float64."""
    return rows_of_logits.plain


@pytest.fixture(scope="module", params=["numba", "torch"])
def compression(request: pytest.FixtureRequest) -> Iterator[str]:
    """What makes the records of a test: the compiled loops of the CPU, then the plain path of every other device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcache.targets.sparse_rows.method_on", lambda device_type: request.param)
        yield request.param
