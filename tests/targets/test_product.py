"""Products of half-precision matrices against float64 ones of the same numbers."""

import pytest
import torch

from kdcache.targets import product
from kdcache.targets.product import wide_product


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("numbers", [1 << 24, 1000])
@pytest.mark.parametrize("shape", [(64, 96, 200), (1, 33, 7), (0, 8, 5)])
def test_nothing_but_float32_is_rounded_to(
    dtype: torch.dtype, numbers: int, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of D products, each exact: within D half-units of float32 of their sizes. In one part or many."""
    monkeypatch.setattr(product, "_NUMBERS", numbers)
    P, D, V = shape
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(n, D, generator=generator).to(dtype) for n in (P, V))
    bound = D * 2.0**-24 * (left.double().abs() @ right.double().abs().T)
    exact = left.double() @ right.double().T
    out = torch.full((P, V + 1), 7.0)
    for got in (wide_product(left, right), wide_product(left, right, out[:, :V])):
        assert got.dtype is torch.float32
        assert bool(((got.double() - exact).abs() <= bound).all())
    assert bool((out[:, V] == 7).all())
    if P * V > 100:
        narrow = (left @ right.T).double()
        assert bool(((narrow - exact).abs() > bound).any())


def test_autocast_changes_nothing_and_the_backend_is_as_before() -> None:
    left, right = torch.randn(8, 64).half(), torch.randn(30, 64).half()
    before = torch.backends.mkldnn.matmul.fp32_precision
    plain = wide_product(left, right)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(wide_product(left, right), plain)
    assert torch.backends.mkldnn.matmul.fp32_precision == before
