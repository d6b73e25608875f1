"""Which entries a record holds, and that nothing but the row, the settings and its key decides it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdcache.errors import ConfigError, TeacherError
from kdcache.targets.calibration import Encoder, make_basis
from kdcache.targets.compiled.rows import CompiledRows
from kdcache.targets.compress import compress, compress_to_arrays
from kdcache.targets.curve_spec import CurveSpec
from kdcache.targets.dense import Dense
from kdcache.targets.factored import Factored
from kdcache.targets.output_layer import OutputLayer
from kdcache.targets.philox import uniform
from kdcache.targets.record import TeacherTargets
from kdcache.targets.rows import Rows as PlainRows
from kdcache.targets.sampled import Sampled
from kdcache.targets.sparse import Sparse
from kdcache.targets.top_k import TopK

pytestmark = pytest.mark.usefixtures("compression")

SPECS = {
    "default": Sampled(),
    "two proposals": Sampled(proposal_temperatures=(1.0, 2.0), curve=CurveSpec(nodes=(0.0, 0.5, 1.0))),
    "sampled only": Sampled(exact_top_k=0, samples=21, curve=CurveSpec(temperatures=(1.0,))),
    "top-k": TopK(k=32),
    "one draw": Sampled(exact_top_k=1, samples=1),
}
SIZES = (1, 2, 5, 63, 64, 65, 511, 513, 1000, 4096)
Rows = Callable[..., Tensor]


def keys_of(P: int, seed: int = 3) -> np.ndarray:
    return np.stack([np.full(P, seed), np.arange(P) // 4, np.arange(P) % 4], 1)


def check_laws(logits_PV: Tensor, spec: Sparse, keys_P3: np.ndarray, targets: TeacherTargets) -> None:
    """The definition in float64: certain entries, then those where c + u passes an integer, in order of the logit."""
    V = logits_PV.shape[1]
    for row, u, p in zip(logits_PV.double(), uniform(keys_P3), range(len(logits_PV)), strict=True):
        order = np.lexsort((np.arange(V), -row.numpy()))
        weight_V = torch.stack([(row / t).softmax(-1) for t in spec.plan.proposals or (1.0,)]).mean(0).numpy()
        inclusion_V = spec.plan.samples * weight_V
        expected = max(min(spec.plan.exact_top_k, V), int((inclusion_V >= 1).sum()))
        n, kept = int(targets.num_certain_P[p]), int((targets.inclusion_PE[p] > 0).sum())
        ids = targets.ids_PE[p, :kept].numpy()
        borderline = np.abs(inclusion_V[order[min(n, expected) : max(n, expected)]] - 1)
        assert (borderline < 3e-4).all()
        assert ids[:n].tolist() == order[:n].tolist()
        rank_V = np.empty(V, int)
        rank_V[order] = np.arange(V)
        assert (np.diff(rank_V[ids]) > 0).all()
        assert (targets.inclusion_PE[p, :n] == 1).all()
        assert (targets.inclusion_PE[p, n:kept] < 1).all() or not spec.plan.samples
        if not spec.plan.samples or n == V:
            assert kept == n
            continue
        inclusion_V[order[:n]] = 0
        inclusion_V /= min(1.0, inclusion_V.sum())
        sums_V = inclusion_V.cumsum() + u
        drawn = np.sort(ids[n:])
        assert abs(kept - n - np.floor(sums_V[-1])) <= (abs(sums_V[-1] - round(sums_V[-1])) < 1e-4)
        passed = np.floor(sums_V[drawn] + 1e-4) > np.floor(sums_V[drawn] - inclusion_V[drawn] - 1e-4)
        assert passed.all()
        np.testing.assert_allclose(targets.inclusion_PE[p, n:kept], inclusion_V[ids[n:]], rtol=5e-3)


@pytest.mark.parametrize("shape", ["zipf", "student_t", "normal", "two_kinds"])
@pytest.mark.parametrize("name", SPECS)
def test_what_is_kept_follows_the_definition(rows: Rows, shape: str, name: str) -> None:
    spec = SPECS[name].model_copy(update={"logit_dtype": "float32"})
    for V in (50, 1000, 5003):
        logits_PV, keys_P3 = rows(shape, 24, V), keys_of(24)
        check_laws(logits_PV, spec, keys_P3, compress(logits_PV, spec, keys_P3))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(SPECS)),
    st.sampled_from(SIZES),
    st.integers(0, 2**32),
    st.floats(0.0, 12.0),
    st.booleans(),
)
def test_laws_hold_for_any_row(name: str, V: int, seed: int, spread: float, integers: bool) -> None:
    logits_PV = torch.randn(6, V, generator=torch.Generator().manual_seed(seed)) * spread
    logits_PV = logits_PV.round() if integers else logits_PV
    spec, keys_P3 = SPECS[name].model_copy(update={"logit_dtype": "float32"}), keys_of(6, seed)
    check_laws(logits_PV, spec, keys_P3, compress(logits_PV, spec, keys_P3))


@pytest.mark.parametrize("name", SPECS)
def test_a_record_depends_on_its_row_and_key_alone(rows: Rows, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits_PV, keys_P3 = rows("zipf", 40, 1500), keys_of(40)
    whole = compress_to_arrays(logits_PV, SPECS[name], keys_P3)

    def joined(parts: list[np.ndarray | slice]) -> dict[str, np.ndarray]:
        arrays = [compress_to_arrays(logits_PV[p], SPECS[name], keys_P3[p]) for p in parts]
        return {field: np.concatenate([a[field] for a in arrays]) for field in whole}

    def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
        return all(a[field].tobytes() == b[field].tobytes() for field in whole)

    assert same(whole, joined([slice(0, 1), slice(1, 8), slice(8, None)]))
    order = np.random.default_rng(0).permutation(40)
    assert same(joined([order]), joined([order[i : i + 1] for i in range(40)]))
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            assert same(whole, joined([slice(None)]))
        finally:
            torch.set_num_threads(before)
    for kind in (CompiledRows, PlainRows):
        monkeypatch.setattr(kind, "__init__", small_blocks(kind.__init__))
    assert same(whole, joined([slice(None)]))


def small_blocks(init: Callable[..., None]) -> Callable[..., None]:
    def small(self: CompiledRows | PlainRows, *arguments: object) -> None:
        init(self, *arguments)
        self.block_bytes = 7 * 4 * 1500

    return small


def test_another_key_draws_another_sample(rows: Rows) -> None:
    logits_PV = rows("normal", 1, 2000).expand(3, -1)
    keys_P3 = np.array([[1, 2, 3], [1, 2, 4], [1, 2, 3]])
    targets = compress(logits_PV, Sampled(), keys_P3)
    assert torch.equal(targets.ids_PE[0], targets.ids_PE[2])
    assert not torch.equal(targets.ids_PE[0], targets.ids_PE[1])


@pytest.mark.parametrize("name", SPECS)
def test_layout_of_the_rows_does_not_matter(rows: Rows, name: str) -> None:
    """Columns cut off a wider head, half precision as it comes, transposed memory, autograd and autocast on."""
    logits_PV = rows("zipf", 9, 700).bfloat16()
    expected = compress_to_arrays(logits_PV.float(), SPECS[name])
    wide_PV = torch.nn.functional.pad(logits_PV, (0, 68), value=99.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for same in (
            logits_PV,
            wide_PV[:, :700],
            logits_PV.float().T.contiguous().T,
            logits_PV.float().requires_grad_(),
        ):
            arrays = compress_to_arrays(same, SPECS[name])
            assert all(arrays[field].tobytes() == expected[field].tobytes() for field in expected)


def test_ids_beyond_two_bytes(rows: Rows) -> None:
    logits_PV = rows("student_t", 2, 140_000)
    logits_PV[:, 139_999] = 40.0
    logits_PV[:, 131_072] = 39.0
    arrays = compress_to_arrays(logits_PV, Sampled())
    assert arrays["ids"].dtype == np.uint32
    assert compress(logits_PV, Sampled()).ids_PE[:, :2].tolist() == [[139_999, 131_072]] * 2


def test_the_largest_vocabulary() -> None:
    logits_PV = torch.zeros(1, 1 << 24)
    logits_PV[0, -1] = 3.0
    targets = compress(logits_PV, Sampled())
    assert targets.ids_PE[0, 0] == (1 << 24) - 1
    assert targets.ids_PE[0, 1:8].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert abs(targets.log_partition(1.0).item() - np.log(2**24 - 1 + np.e**3)) < 1e-3
    with pytest.raises(ConfigError, match="got 16777217 classes, expected 1 to 16777216"):
        compress(torch.zeros(1, 1).expand(1, (1 << 24) + 1), Sampled())


def test_equal_logits_are_drawn_evenly() -> None:
    """Every class has π = 25 / 992 of being drawn: 25 draws a row at even distances, all classes in turn."""
    targets = compress(torch.zeros(4000, 1000), Sampled())
    assert (targets.num_certain_P == 8).all()
    assert ((targets.inclusion_PE > 0).sum(1) - 32.8).abs().max() < 1  # 8 + 25 · 992 / 1000
    counts_V = targets.ids_PE[targets.inclusion_PE > 0].bincount(minlength=1000).double()
    assert (counts_V[:8] == 4000).all()
    assert (counts_V[8:] - 100).abs().max() < 5 * 10


def test_a_sure_teacher_still_draws_one() -> None:
    """The uncertain classes hold 1e-26 of the mass, two thirds of it in one class."""
    logits_PV = torch.full((3000, 300), -80.0)
    logits_PV[:, 17] = 0.0
    logits_PV[:, 250] = -80.0 + float(np.log(2 * 298))
    spec = Sampled(exact_top_k=1, logit_dtype="float32")
    targets = compress(logits_PV, spec)
    assert targets.num_certain_P.tolist() == [1] * 3000
    assert targets.ids_PE.shape == (3000, 2)
    assert (targets.inclusion_PE[:, 1] > 0).all()
    share = (targets.ids_PE[:, 1] == 250).double().mean()
    assert abs(share - 2 / 3) < 4 * (2 / 9 / 3000) ** 0.5
    drawn = targets.ids_PE[:, 1] == 250
    np.testing.assert_allclose(targets.inclusion_PE[drawn, 1], 2 / 3, rtol=2e-3)
    np.testing.assert_allclose(targets.inclusion_PE[~drawn, 1], 1 / 3 / 298, rtol=2e-3)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("V", [1, 2, 7])
def test_fewer_classes_than_certain_entries(rows: Rows, name: str, V: int) -> None:
    logits_PV = rows("normal", 5, V)
    targets = compress(logits_PV, SPECS[name])
    for temperature in (1.0,) if name == "sampled only" else (0.5, 1.0, 3.0):
        expected_P = (logits_PV / temperature).logsumexp(-1)
        torch.testing.assert_close(targets.log_partition(temperature), expected_P, rtol=0, atol=1e-3)
        torch.testing.assert_close(targets.weights(temperature).sum(-1), torch.ones(5), rtol=0, atol=1e-5)
        assert targets.entropy(temperature).isfinite().all()
    if name in ("default", "top-k"):
        assert targets.num_certain_P.tolist() == [V] * 5
        assert targets.tail_mass(1.0).tolist() == [0.0] * 5
        assert targets.effective_samples(1.0).tolist() == [float("inf")] * 5


@pytest.mark.parametrize("masked", [-1e4, -1e9, -1e30, torch.finfo(torch.float32).min])
def test_masked_classes_are_left_out_of_the_tail(rows: Rows, masked: float) -> None:
    logits_PV = rows("zipf", 6, 3000)
    logits_PV[:, ::3] = masked
    targets = compress(logits_PV, Sampled())
    for temperature in (0.5, 1.0, 2.0, 8.0):
        expected_P = (logits_PV.double() / temperature).logsumexp(-1)
        torch.testing.assert_close(targets.log_partition(temperature).double(), expected_P, rtol=0, atol=6e-3)
        assert targets.entropy(temperature).isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [*SPECS, "dense"])
def test_logits_that_are_not_finite_are_refused(rows: Rows, bad: float, name: str) -> None:
    spec = SPECS.get(name, Dense(logit_dtype="float32"))
    for V in (100, 3000):
        logits_PV = rows("zipf", 3000, V) if V == 100 else rows("zipf", 8, V)
        logits_PV[len(logits_PV) - 2, V - 1] = bad
        message = f"NaN or infinite logits in row {len(logits_PV) - 2} of {len(logits_PV)}, expected finite"
        with pytest.raises(TeacherError, match=message):
            compress(logits_PV, spec)


def test_keys_of_another_shape_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"got generator_keys int64\[2, 2\], expected whole numbers \[2, 3\]: seed, example"
    ):
        compress(torch.zeros(2, 4), Sampled(), [[1, 2], [3, 4]])


def test_keys_may_be_a_list_an_array_or_a_tensor(rows: Rows) -> None:
    logits_PV, keys = rows("zipf", 2, 500), [[1, 2, 3], [4, 5, 6]]
    first, *others = (
        compress(logits_PV, Sampled(), given) for given in (keys, np.array(keys, np.int32), torch.tensor(keys))
    )
    assert all(torch.equal(first.ids_PE, other.ids_PE) for other in others)
    assert torch.equal(
        compress(logits_PV, Sampled()).ids_PE, compress(logits_PV, Sampled(), [[0, 0, 0], [0, 0, 1]]).ids_PE
    )


def test_rows_keys_and_bases_of_another_shape_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"got logits of shape \[2, 3, 4\], expected \[positions, classes\]"):
        compress(torch.zeros(2, 3, 4), Sampled())
    with pytest.raises(ConfigError, match=r"got generator_keys float64\[1, 3\], expected whole numbers"):
        compress(torch.zeros(1, 4), Sampled(), [[0.9, 1.0, 2.0]])
    assert compress(torch.zeros(0, 4), Sampled(), []).num_positions == 0
    layer = OutputLayer(torch.randn(3, 2))
    encoder = Encoder(make_basis(layer, torch.randn(9, 2), 1), layer)
    with pytest.raises(ConfigError, match="got hidden states or an encoder for a sampled record, expected none"):
        compress(torch.zeros(2, 3), Sampled(), encoder=encoder)
    with pytest.raises(ConfigError, match="got a basis of 3 classes, expected 4, those of the logits"):
        compress(torch.zeros(2, 4), Factored(rank=1, samples=25), hidden_PD=torch.zeros(2, 2), encoder=encoder)
    with pytest.raises(ConfigError, match=r"got labels \[3\], expected \[2\], one for each row"):
        compress(torch.zeros(2, 4), Sampled(), labels_P=[1, 2, 3])


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(ConfigError, match="got estimator 'foo', expected one of normalised, horvitz_thompson"):
        compress(torch.zeros(2, 40), Sampled()).weights(1.0, "foo")  # type: ignore[arg-type]
