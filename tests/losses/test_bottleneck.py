"""The bottleneck's terms against distributions of torch, Monte Carlo and finite differences."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from kdcache.losses.bottleneck import Bottleneck, gaussian_kl, gaussian_nll
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.train.settings import TrainConfig

P, D, Z, H = 6, 5, 3, 7


def gaussians():
    return torch.randn(P, Z, dtype=torch.float64), torch.randn(P, Z, dtype=torch.float64) * 2


def shaken(**settings):
    """A bottleneck in float64 none of whose weights is at its start."""
    bottleneck = Bottleneck(D, H, Z, **settings).double()
    for parameter in bottleneck.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return bottleneck


def inputs():
    hidden_PD = torch.randn(P, D, dtype=torch.float64, requires_grad=True)
    return hidden_PD, torch.randn(P, H, dtype=torch.float64) * 30 + 5


def test_kl_is_the_closed_form():
    mean_PZ, log_variance_PZ = gaussians()
    code = Independent(Normal(mean_PZ, (log_variance_PZ / 2).exp()), 1)
    prior = Independent(Normal(torch.zeros(P, Z).double(), torch.ones(P, Z).double()), 1)
    got_P = gaussian_kl(mean_PZ, log_variance_PZ)
    torch.testing.assert_close(got_P, kl_divergence(code, prior))
    assert (got_P > 0).all()
    zeros_PZ = torch.zeros(P, Z)
    assert (gaussian_kl(zeros_PZ, zeros_PZ) == 0).all()


def test_kl_is_the_mean_of_log_ratios_of_draws():
    """Within 5 standard errors of 200,000 draws, which are below 2% of it."""
    mean_PZ, log_variance_PZ = gaussians()
    code = Independent(Normal(mean_PZ, (log_variance_PZ / 2).exp()), 1)
    prior = Independent(Normal(torch.zeros(P, Z).double(), torch.ones(P, Z).double()), 1)
    draws = code.sample((200_000,))
    ratios = code.log_prob(draws) - prior.log_prob(draws)
    error_P = ratios.std(0) / math.sqrt(len(ratios))
    exact_P = gaussian_kl(mean_PZ, log_variance_PZ)
    assert (error_P < 0.02 * exact_P).all()
    assert ((ratios.mean(0) - exact_P).abs() < 5 * error_P).all()


def test_nll_is_that_of_the_normal_density():
    values_PH, mean_PH = torch.randn(2, P, H, dtype=torch.float64)
    log_variance_H = torch.randn(H, dtype=torch.float64) * 2
    normal = Independent(Normal(mean_PH, (log_variance_H / 2).exp()), 1)
    torch.testing.assert_close(gaussian_nll(values_PH, mean_PH, log_variance_H), -normal.log_prob(values_PH))


@pytest.mark.parametrize("training", [False, True])
def test_a_position_is_the_formula(training):
    bottleneck, (hidden_PD, features_PH) = shaken(beta=0.3).train(training), inputs()
    torch.manual_seed(1)
    got_P = bottleneck(hidden_PD, features_PH)
    torch.manual_seed(1)
    noise_PZ = torch.randn(P, Z, dtype=torch.float64) if training else 0.0

    def bent(value):
        return 10 * torch.tanh(value / 10)

    mean_PZ = hidden_PD @ bottleneck.mean.weight.T + bottleneck.mean.bias
    deviation_PZ = (bent(hidden_PD @ bottleneck.log_variance.weight.T + bottleneck.log_variance.bias) / 2).exp()
    code_PZ = mean_PZ + deviation_PZ * noise_PZ
    guess_PH = code_PZ @ bottleneck.decoder.weight.T + bottleneck.decoder.bias
    normal_PH = (features_PH - features_PH.mean(-1, keepdim=True)) / features_PH.std(-1, correction=0, keepdim=True)
    of_teacher = Normal(guess_PH, (bent(bottleneck.teacher_log_variance) / 2).exp())
    unsaid_P = -of_teacher.log_prob(normal_PH).sum(-1)
    told_P = kl_divergence(Normal(mean_PZ, deviation_PZ), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(got_P, (unsaid_P + 0.3 * told_P) / H, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_by_finite_differences(training):
    """Of the hidden states and of every parameter, also through the draw."""
    bottleneck, (hidden_PD, features_PH) = shaken(beta=0.3).train(training), inputs()
    names = [name for name, _ in bottleneck.named_parameters()]

    def loss(hidden_PD, *values):
        torch.manual_seed(2)
        parameters = dict(zip(names, values, strict=True))
        return torch.func.functional_call(bottleneck, parameters, (hidden_PD, features_PH))

    assert torch.autograd.gradcheck(loss, (hidden_PD, *bottleneck.parameters()))


def test_a_draw_is_of_the_generator_and_eval_has_none():
    bottleneck, (hidden_PD, features_PH) = shaken(), inputs()
    torch.manual_seed(3)
    first, second = (bottleneck(hidden_PD, features_PH) for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(bottleneck(hidden_PD, features_PH), first)
    assert not torch.equal(first, second)
    bottleneck.eval()
    assert torch.equal(bottleneck(hidden_PD, features_PH), bottleneck(hidden_PD, features_PH))


def test_the_scale_of_the_teacher_does_not_matter():
    bottleneck, (hidden_PD, features_PH) = shaken().eval(), inputs()
    torch.testing.assert_close(
        bottleneck(hidden_PD, features_PH * 1000), bottleneck(hidden_PD, features_PH), rtol=1e-4, atol=1e-4
    )


def test_half_precision_is_computed_in_float32():
    bottleneck, (hidden_PD, features_PH) = Bottleneck(D, H, Z).eval(), inputs()
    exact_P = bottleneck(hidden_PD.float(), features_PH.float())
    value_P = bottleneck.bfloat16()(hidden_PD.bfloat16(), features_PH.half())
    assert value_P.dtype == torch.float32
    torch.testing.assert_close(value_P, exact_P, rtol=2e-2, atol=2e-2)
    value_P.sum().backward()
    assert all(p.grad.isfinite().all() for p in bottleneck.parameters())


def test_extreme_states_stay_finite_and_learn():
    """A variance that has run away is still pulled back: bent, not cut off."""
    bottleneck = Bottleneck(D, H, Z)
    torch.nn.init.normal_(bottleneck.log_variance.weight)
    hidden_PD = torch.full((P, D), 20.0, requires_grad=True)
    value_P = bottleneck(hidden_PD, torch.zeros(P, H))
    value_P.sum().backward()
    assert value_P.isfinite().all()
    assert all(p.grad.isfinite().all() for p in bottleneck.parameters())
    assert (bottleneck.log_variance.weight.grad != 0).all()
    assert bottleneck(torch.full((P, D), 1e4), torch.zeros(P, H)).isfinite().all()


def test_no_positions():
    bottleneck, hidden_0D = Bottleneck(D, H, Z), torch.zeros(0, D, requires_grad=True)
    value = bottleneck(hidden_0D, torch.zeros(0, H)).sum()
    value.backward()
    assert value.item() == 0
    assert all(p.grad.abs().sum() == 0 for p in bottleneck.parameters())


def test_it_learns_what_the_teacher_knows_and_beta_decides_how_much():
    """Features that the hidden states determine by a map of rank 2, and one number that is noise."""
    torch.manual_seed(0)
    hidden_PD = torch.randn(256, D)
    features_PH = torch.cat([hidden_PD[:, :2] @ torch.randn(2, H - 1), torch.randn(256, 1)], 1)
    told = {}
    for beta in (1e-3, 3.0):
        torch.manual_seed(0)
        bottleneck = Bottleneck(D, H, Z, beta)
        optimizer = torch.optim.Adam(bottleneck.parameters(), 0.02)
        first = bottleneck(hidden_PD, features_PH).mean().item()
        for _ in range(400):
            optimizer.zero_grad()
            bottleneck(hidden_PD, features_PH).mean().backward()
            optimizer.step()
        told[beta] = gaussian_kl(bottleneck.mean(hidden_PD), bottleneck.log_variance(hidden_PD)).mean().item()
        if beta < 1:
            assert bottleneck(hidden_PD, features_PH).mean().item() < first - 0.5
            known = bottleneck.teacher_log_variance[:-1]
            assert (known < bottleneck.teacher_log_variance[-1] - 0.3).all()
    assert told[1e-3] > 10 * told[3.0]


def test_terms_that_have_none_of_the_logits_leave_them_alone(teacher):
    """In the order of the terms, with a place and a name in sums and total."""
    some = teacher(4, 10, "ghost")
    supervision, student_PV = Supervision(torch.arange(4), some.targets), torch.randn(4, 10)
    configs = [
        make_term(name="bottleneck", width=2, beta=0.5, weight=3.0),
        make_term(name="divergence"),
        make_term(name="bottleneck", width=4),
    ]
    terms, without = LossTerms(configs, 10), LossTerms(configs[1:2], 10)
    assert list(terms.beside) == [0, 2]
    assert terms.names == ("bottleneck_2_0.5", "forward_kl@1", "bottleneck_4_0.01")
    got_PV, expected_PV = student_PV.clone(), student_PV.clone()
    sums_K = terms.value_and_gradient_(got_PV, supervision, torch.ones(4, 1))
    expected_K = without.value_and_gradient_(expected_PV, supervision)
    assert sums_K.tolist() == [0, expected_K.item(), 0]
    assert torch.equal(got_PV, expected_PV)
    sums_K[0] = 2.0
    assert terms.total(sums_K) == pytest.approx(6 + expected_K.item())
    assert [term.trains_a_module for term in configs] == [True, False, True]
    made = [term.make_module(8, 16) for term in configs[::2]]
    assert [(b.mean.out_features, b.beta, b.decoder.out_features) for b in made] == [(2, 0.5, 16), (4, 0.01, 16)]


def test_bottlenecks_alone_have_no_gradient_by_logits():
    terms, logits_PV = LossTerms([make_term(name="bottleneck")], 10), torch.randn(4, 10)
    assert terms.value_and_gradient_(logits_PV, Supervision(torch.arange(4))).tolist() == [0]
    assert (logits_PV == 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 2.0}, "got temperature in a bottleneck term, expected only width, beta, weight"),
        ({"kind": "reverse_kl"}, "got kind in a bottleneck term"),
        ({"alpha": 0.5}, "got alpha in a bottleneck term"),
        ({"weighting": "entropy"}, "got weighting in a bottleneck term"),
        ({"beta": -0.1}, "got beta -0.1 in a bottleneck term, expected a finite number of 0 or more"),
        ({"beta": math.nan}, "beta\n  Input should be a finite number"),
        ({"width": 0}, "width"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        make_term(name="bottleneck", **settings)


def test_there_must_be_one_to_export():
    settings = {"cache": "c", "output": "o", "student": {"path": "s"}, "steps": 1, "export_modules": True}
    with pytest.raises(ValueError, match="got export_modules without a term that trains one"):
        TrainConfig.model_validate(settings)
    TrainConfig.model_validate(settings | {"terms": [{"name": "bottleneck"}]})
