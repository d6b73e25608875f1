"""Numbers that are hard on floating point: half precision, autocast, masked classes, logits far from 0."""

import pytest
import torch
from torch import Tensor

import kdcache
from kdcache.errors import ConfigError
from kdcache.losses.fused import FusedLoss
from kdcache.losses.metrics import FusedSums, Sums, measure
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.losses.unfused import loss_of_logits
from kdcache.models.wide_linear import WideLinear
from kdcache.targets.calibration import Encoder, make_basis
from kdcache.targets.dense import Dense
from kdcache.targets.factored import Factored
from kdcache.targets.kind import RecordKind
from kdcache.targets.output_layer import OutputLayer
from kdcache.targets.record import TeacherTargets
from kdcache.targets.sampled import Sampled

DENSE = Dense(logit_dtype="float32")


def rows(P: int, V: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(P, V, generator=torch.Generator().manual_seed(seed)) * scale


def supervised(targets: TeacherTargets) -> Supervision:
    return Supervision(torch.zeros(targets.num_positions, dtype=torch.int64), targets)


@pytest.mark.parametrize(
    "changes",
    [{"reduction": "class_mean"}, {"reduction": "class_mean", "temperature": 4.0}, {"weight": 0.01}, {}],
    ids=str,
)
def test_float16_students_get_their_gradient_through_a_loss_scale(changes: dict) -> None:
    """As mixed precision does it: the loss times 2¹⁵, the gradients divided by it in float32."""
    V, D, P, scale = 8000, 16, 24, 2.0**15
    terms = LossTerms([make_term(name="divergence", **changes)], V)
    supervision = supervised(kdcache.compress(rows(P, V), DENSE))
    hidden = rows(P, D, 1, 1.0).half()
    weight = rows(V, D, 2, 0.5).half()

    def gradients(hidden_PD: Tensor, weight_VD: Tensor, fused: bool, scale: float) -> tuple[Tensor, Tensor]:
        given = hidden_PD.clone().requires_grad_(), weight_VD.clone().requires_grad_()
        if fused:
            loss, _ = FusedLoss(terms, supervision, chunk=10)(*given)
        else:
            loss, _ = loss_of_logits(given[0] @ given[1].T, terms, supervision, chunk=10)
        return tuple(gradient.double() / scale for gradient in torch.autograd.grad(loss * scale, given))  # type: ignore

    exact = gradients(hidden.double(), weight.double(), True, 1.0)
    for fused in (True, False):
        for got, expected in zip(gradients(hidden, weight, fused, scale), exact, strict=True):
            assert (got - expected).norm() < 5e-3 * expected.norm()


def test_the_outer_gradient_is_not_rounded_to_the_logits_dtype() -> None:
    terms = LossTerms([make_term(name="divergence")], 50)
    supervision = supervised(kdcache.compress(rows(6, 50), DENSE))
    norms = []
    for dtype in (torch.float32, torch.bfloat16):
        logits = rows(6, 50, 1).to(dtype).requires_grad_()
        loss, _ = loss_of_logits(logits, terms, supervision)
        (gradient,) = torch.autograd.grad(loss / 7e5, logits)
        norms.append(gradient.double().norm().item())
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


@pytest.mark.parametrize("record", ["dense", "factored", "sampled"])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl"])
def test_autocast_and_tf32_change_nothing(record: str, kind: str) -> None:
    V, D = 300, 8
    layer = OutputLayer(rows(V, D, 3, 1.0))
    hidden = rows(40, D, 4, 1.5)
    logits = layer.logits(hidden)
    if record == "factored":
        encoder = Encoder(make_basis(layer, hidden, 4), layer)
        spec = Factored(rank=4)
        made = {"hidden_PD": hidden, "encoder": encoder}
    else:
        spec, made = DENSE if record == "dense" else Sampled(), {}
    student = rows(40, V, 5)

    def results() -> list[Tensor]:
        targets = kdcache.compress(logits, spec, **made)  # type: ignore[arg-type]
        given = student.clone().requires_grad_()
        loss = kdcache.distillation_loss(given, targets, kind=kind, temperature=2.0)
        found, sums_K = loss_of_logits(
            given, LossTerms([make_term(name="divergence", kind=kind, temperature=2.0)], V), supervised(targets)
        )
        return [loss.detach(), *torch.autograd.grad(loss, given), found.detach(), sums_K]

    plain = results()
    before = torch.backends.fp32_precision
    torch.backends.fp32_precision = "tf32"
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = results()
        assert torch.backends.fp32_precision == "tf32"
    finally:
        torch.backends.fp32_precision = before
    for got, expected in zip(inside, plain, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


def test_the_fused_head_runs_in_the_dtype_of_its_hidden_states_under_autocast() -> None:
    V, D, P = 200, 8, 12
    task = FusedLoss(LossTerms([make_term(name="divergence")], V), supervised(kdcache.compress(rows(P, V), DENSE)))
    head, body = WideLinear(D, V, bias=False), torch.nn.Linear(D, D)
    inputs = rows(P, D, 1, 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = head(body(inputs), task=task)
    loss.backward()
    assert head.weight.grad is not None
    assert head.weight.grad.dtype == torch.float32
    got = head.weight.grad.clone()
    head.weight.grad = None
    head(body(inputs), task=task)[0].backward()
    assert (got - head.weight.grad).norm() < 2e-2 * head.weight.grad.norm()


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint16"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_classes_that_teacher_and_student_mask_count_nothing(dtype: str, temperature: float) -> None:
    V, masked = 12, torch.finfo(torch.float32).min
    teacher, student = rows(5, V), rows(5, V, 1)
    expected = kdcache.distillation_loss(
        student[:, :8], kdcache.compress(teacher[:, :8], DENSE), temperature=temperature
    )
    for by_teacher, by_student in ((masked, masked), (-1e9, -torch.inf)):
        teacher[:, 8:], student[:, 8:] = by_teacher, by_student
        targets = kdcache.compress(teacher, Dense(logit_dtype=dtype))  # type: ignore[arg-type]
        for kind in ("forward_kl", "reverse_kl", "jsd", "skew_kl", "tvd"):
            given = student.clone().requires_grad_()
            loss = kdcache.distillation_loss(given, targets, kind=kind, temperature=temperature)
            (gradient,) = torch.autograd.grad(loss, given)
            term = make_term(name="divergence", kind=kind, temperature=temperature)  # type: ignore[arg-type]
            block = student.clone()
            sums_K = LossTerms([term], V).value_and_gradient_(block, supervised(targets))
            assert gradient.isfinite().all()
            torch.testing.assert_close(block / 5, gradient, rtol=1e-3, atol=1e-6)
            assert float(sums_K[0]) * temperature**2 / 5 == pytest.approx(loss.item(), rel=1e-4)
            if kind == "forward_kl":
                assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    assert targets.entropy(temperature).isfinite().all()


@pytest.mark.parametrize("spec", [DENSE, Sampled(logit_dtype="float32")], ids=["dense", "sampled"])
@pytest.mark.parametrize("offset", [-300.0, 1e4])
def test_logits_far_from_0_lose_nothing(spec: RecordKind, offset: float) -> None:
    logits = (rows(50, 2000) * 1024).round() / 1024  # such that the shifted ones are float32 numbers
    near, far = kdcache.compress(logits, spec), kdcache.compress(logits + offset, spec)
    for temperature in (0.25, 0.5, 1.0, 4.0):
        assert (far.weights(temperature).sum(-1) - 1).abs().max() < 1e-5
        torch.testing.assert_close(far.weights(temperature), near.weights(temperature))
        torch.testing.assert_close(far.entropy(temperature), near.entropy(temperature))
        shifted = near.log_partition(temperature).double() + offset / temperature
        torch.testing.assert_close(far.log_partition(temperature).double(), shifted, rtol=1e-6, atol=1e-5)


def test_an_infinite_temperature_is_refused() -> None:
    targets = kdcache.compress(rows(3, 40), Sampled())
    for ask in (targets.log_partition, targets.entropy, targets.tail_mass, targets.weights):
        with pytest.raises(ConfigError, match="got temperature inf, expected a finite number above 0"):
            ask(torch.inf)


@pytest.mark.parametrize("fused", [True, False])
def test_gradients_are_let_go_after_backward_and_have_no_second_derivative(fused: bool) -> None:
    V = 30
    terms, supervision = LossTerms([make_term(name="divergence")], V), supervised(kdcache.compress(rows(4, V), DENSE))
    given = rows(4, 6, 1).requires_grad_() if fused else rows(4, V, 1).requires_grad_()

    def loss() -> Tensor:
        return (
            FusedLoss(terms, supervision)(given, rows(V, 6, 2))[0]
            if fused
            else loss_of_logits(given, terms, supervision)[0]
        )

    found = loss()
    found.backward()
    with pytest.raises(RuntimeError, match=r"[Ss]aved .* freed|freed"):
        found.grad_fn.saved_tensors  # type: ignore[union-attr]  # noqa: B018
    (gradient,) = torch.autograd.grad(loss() ** 2, given, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
@pytest.mark.parametrize("kind", ["forward_kl", "jsd"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_near_the_teacher_a_half_precision_student_has_the_gradient_of_its_own_weights(
    dtype: torch.dtype, kind: str, fused: bool
) -> None:
    """Logits 0.01 from the teacher's. With logits rounded to the dtype the gradient is off by 40% in float16 and by
    three times its size in bfloat16; what is left is its own rounding for the products that carry it on."""
    V, D, P = 2000, 64, 40
    hidden = rows(P, D, 1, 1.0).to(dtype)
    weight = rows(V, D, 2, 0.7).to(dtype)
    teacher_PV = (hidden.double() @ weight.double().T + 0.01 * rows(P, V, 3, 1.0)).float()
    terms = LossTerms([make_term(name="divergence", kind=kind)], V)
    supervision = supervised(kdcache.compress(teacher_PV, DENSE))

    def gradients(hidden_PD: Tensor, weight_VD: Tensor) -> tuple[Tensor, ...]:
        given = hidden_PD.clone().requires_grad_(), weight_VD.clone().requires_grad_()
        if fused:
            loss, _ = FusedLoss(terms, supervision, chunk=16)(*given)
        else:
            layer = WideLinear(D, V, bias=False)
            layer.weight = torch.nn.Parameter(given[1])
            given = given[0], layer.weight
            loss, _ = loss_of_logits(layer(given[0]), terms, supervision, chunk=16)
        return torch.autograd.grad(loss * 64, given)

    exact = gradients(hidden.double(), weight.double())
    for got, expected in zip(gradients(hidden, weight), exact, strict=True):
        assert (got.double() - expected).norm() < 5e-3 * expected.norm()


def test_held_out_sums_of_a_half_precision_student_are_of_its_own_weights() -> None:
    V, D, P = 2000, 64, 40
    hidden, weight, bias = (rows(*shape, 0.7).bfloat16() for shape in ((P, D, 1), (V, D, 2), (1, V, 4)))
    exact_PV = (hidden.double() @ weight.double().T + bias.double()).float()
    supervision = supervised(kdcache.compress(exact_PV + 0.01 * rows(P, V, 3, 1.0), DENSE))
    expected = measure(exact_PV, supervision).means()
    got = Sums(FusedSums(supervision)(hidden, weight, bias[0])).means()
    assert got == pytest.approx(expected, rel=1e-3)
    assert got["kl"] < 1e-4
