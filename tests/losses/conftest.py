"""Teachers of every form, with the whole distribution beside them, for oracles.

P positions, E entries, V classes.
"""

from dataclasses import dataclass, fields

import pytest
import torch

from kdcache.targets.basis import Basis
from kdcache.targets.curve import TailCurve
from kdcache.targets.dense_targets import DenseTargets
from kdcache.targets.factored_targets import FactoredTargets
from kdcache.targets.record import TeacherTargets
from kdcache.targets.sparse_targets import SparseTargets

TEMPERATURES = (0.5, 1.0, 2.0)


class Sample(SparseTargets):
    """Entries kept with known probabilities: the weights divide by them."""

    def weights(self, temperature, estimator="normalised"):
        kept_PE = self.inclusion_PE > 0
        weights_PE = torch.where(kept_PE, self.log_probs(temperature).exp() / self.inclusion_PE.clamp(min=1e-3), 0.0)
        if estimator == "horvitz_thompson":
            return weights_PE
        drawn_PE = torch.where(self.certain_PE(), 0.0, weights_PE)
        scale_P = self.tail_mass(temperature) / drawn_PE.sum(-1).clamp(min=1e-30)
        return torch.where(self.certain_PE(), weights_PE, drawn_PE * scale_P[:, None])


@dataclass(frozen=True)
class Teacher:
    """logits_PV: the rows that targets were made of, or of the same distribution as a factored record."""

    logits_PV: torch.Tensor
    targets: TeacherTargets

    @property
    def tail(self):
        """None for dense records, which have none."""
        return getattr(self.targets, "tail", None)

    def forward_kl(self, temperature, student_logits_PV, estimator="normalised", entropy_only=False):
        """Oracle, [P], float64, differentiable in the student's logits. entropy_only: its part Σ p log p."""
        if self.tail in (None, "ghost", "factored"):
            formula = "negative_entropy" if entropy_only else "forward_kl"
            return self.divergence(formula, temperature, student_logits_PV)
        log_p_PV, log_q_PV = self._log_probs(temperature, student_logits_PV)
        values = []
        for log_p, log_q, ids, inclusion, certain in zip(
            log_p_PV,
            log_q_PV,
            self.targets.ids_PE,
            self.targets.inclusion_PE.double(),
            self.targets.num_certain_P.tolist(),
            strict=True,
        ):
            used = ids[inclusion > 0]
            weights = log_p[used].exp() / inclusion[inclusion > 0]
            negative_entropy = (log_p.exp() * log_p).sum()
            if self.tail == "renormalise":
                weights = weights / weights.sum()
                negative_entropy = torch.xlogy(weights, weights).sum()
            elif estimator == "normalised" and certain < len(used):
                rest = 1 - weights[:certain].sum()
                weights = torch.cat([weights[:certain], rest * weights[certain:] / weights[certain:].sum()])
            values.append(negative_entropy - (0 if entropy_only else (weights * log_q[used]).sum()))
        return torch.stack(values) if values else student_logits_PV.double().sum(-1)

    def divergence(self, kind, temperature, student_logits_PV, **parameters):
        """Oracle, [P], float64, differentiable: by the formula on every class, or on certain entries and the rest."""
        log_p_PV, log_q_PV = self._log_probs(temperature, student_logits_PV)
        if self.tail == "factored":
            log_p_PV = factored_oracle(self.targets, temperature)
        if self.tail in (None, "factored"):
            return FORMULAS[kind](log_p_PV, log_q_PV, **parameters).sum(-1)
        values = []
        for row, certain in enumerate(self.targets.num_certain_P.tolist()):
            ids = self.targets.ids_PE[row, :certain]
            rest = torch.ones(log_p_PV.shape[1], dtype=torch.bool)
            rest[ids] = False
            log_p, log_q = log_p_PV[row], log_q_PV[row]
            parts = [(log_p[ids], log_q[ids])]
            if rest.any():
                parts.append((log_p[rest].logsumexp(0)[None], log_q[rest].logsumexp(0)[None]))
            log_p, log_q = (torch.cat(side) for side in zip(*parts, strict=True))
            values.append(FORMULAS[kind](log_p, log_q, **parameters).sum())
        return torch.stack(values) if values else student_logits_PV.double().sum(-1)

    def _log_probs(self, temperature, student_logits_PV):
        return tuple((z.double() / temperature).log_softmax(-1) for z in (self.logits_PV, student_logits_PV))


def surplus_price(wide_PV, V, temperature=1.0):
    """Oracle of −log Q, [P], float64: what columns above V cost in each term."""
    y_PV = wide_PV.double() / temperature
    return y_PV.logsumexp(-1) - y_PV[:, :V].logsumexp(-1)


def factored_oracle(targets, temperature):
    """log p of every class, row by row in float64: certain entries exact, the rest shares their mass as told."""
    basis = targets.basis
    rough_PV = (targets.coefficients_PR.double() @ basis.basis_VR.double().T + basis.mean_V.double()) / temperature
    if basis.soft_cap:
        rough_PV = basis.soft_cap / temperature * (rough_PV * temperature / basis.soft_cap).tanh()
    log_tail_P = targets.curve.at(temperature)[0].double()
    rows = []
    for rough, log_tail, ids, logits, certain in zip(
        rough_PV, log_tail_P, targets.ids_PE, targets.logits_PE.double(), targets.num_certain_P.tolist(), strict=True
    ):
        rest = torch.ones(len(rough), dtype=torch.bool)
        rest[ids[:certain]] = False
        log_p = torch.empty_like(rough)
        log_p[rest] = rough[rest] - rough[rest].logsumexp(0) + log_tail
        log_p[ids[:certain]] = logits[:certain] / temperature
        rows.append(log_p - log_p.logsumexp(0))
    return torch.stack(rows) if rows else rough_PV


def _jsd(a, b, beta=0.5):
    log_m = (beta * a.exp() + (1 - beta) * b.exp()).log()
    return beta * a.exp() * (a - log_m) + (1 - beta) * b.exp() * (b - log_m)


def _skew_kl(a, b, alpha=0.1):
    return a.exp() * (a - (alpha * a.exp() + (1 - alpha) * b.exp()).log())


def _alpha_beta(a, b, alpha, beta):
    """Cichocki, Cruces, Amari 2011, case by case."""
    p, q = a.exp(), b.exp()
    if alpha == beta == 0:
        return 0.5 * (a - b) ** 2
    if alpha == 0:
        return (q**beta * (beta * b - beta * a) - q**beta + p**beta) / beta**2
    if beta == 0:
        return (p**alpha * (alpha * a - alpha * b) - p**alpha + q**alpha) / alpha**2
    both = alpha + beta
    return -(p**alpha * q**beta - alpha / both * p**both - beta / both * q**both) / (alpha * beta)


FORMULAS = {
    "negative_entropy": lambda a, b: a.exp() * a,
    "forward_kl": lambda a, b: a.exp() * (a - b),
    "reverse_kl": lambda a, b: b.exp() * (b - a),
    "jsd": _jsd,
    "skew_kl": _skew_kl,
    "skew_reverse_kl": lambda a, b, alpha=0.1: _skew_kl(b, a, alpha),
    "tvd": lambda a, b: 0.5 * (a.exp() - b.exp()).abs(),
    "alpha_beta": _alpha_beta,
}
"""Summands of each kind, of a = log p of the teacher and b = log q of the student, in float64."""


def make_teacher(P, V, form, seed=0, sharpness=2.0, entries=5):
    """form: dense, ghost, renormalise, sample or factored. Rows of a sparse form hold 1 to `entries` entries."""
    generator = torch.Generator().manual_seed(seed)
    logits_PV = torch.randn(P, V, generator=generator) * sharpness
    if form == "dense":
        return Teacher(
            logits_PV,
            DenseTargets.of(logits_PV, torch.zeros(P)),
        )
    E = min(entries, V)
    counts_P = torch.randint(1, E + 1, (P,), generator=generator)
    if P:
        counts_P[0] = E
    ids_PE = logits_PV.argsort(dim=-1, descending=True)[:, :E]
    kept_PE = torch.arange(E) < counts_P[:, None]
    certain_P = counts_P
    inclusion_PE = kept_PE.float()
    if form == "sample":
        certain_P = counts_P.clamp(max=2)
        uncertain_PE = kept_PE & (torch.arange(E) >= certain_P[:, None])
        inclusion_PE = torch.where(uncertain_PE, torch.full_like(inclusion_PE, 0.4), inclusion_PE)
    certain_PE = torch.arange(E) < certain_P[:, None]
    tail_PV = logits_PV.double().scatter(
        1, ids_PE, torch.where(certain_PE, -torch.inf, logits_PV.gather(1, ids_PE).double())
    )
    log_partition_PK = torch.stack([(tail_PV / t).logsumexp(-1) for t in TEMPERATURES], 1)
    probs_PKV = (tail_PV[:, None] / torch.tensor(TEMPERATURES)[:, None] - log_partition_PK[:, :, None]).exp()
    mean_PK = torch.where(probs_PKV > 0, probs_PKV * logits_PV[:, None], 0.0).sum(-1)
    targets = (Sample if form == "sample" else SparseTargets)(
        ids_PE=torch.where(kept_PE, ids_PE, 0),
        relative_PE=torch.where(kept_PE, logits_PV.gather(1, ids_PE), 99.0),
        maximum_P=torch.zeros(P),
        inclusion_PE=inclusion_PE,
        num_certain_P=certain_P,
        num_classes=V,
        curve=TailCurve(TEMPERATURES, log_partition_PK.float(), mean_PK.float()),
        tail="sampled" if form == "sample" else form,
    )
    if form == "factored":
        basis = Basis((torch.randn(V, 3, generator=generator) * sharpness / 50).half(), torch.randn(V), soft_cap=7.0)
        coefficients_PR = torch.randint(-127, 128, (P, 3), generator=generator, dtype=torch.int8)
        known = {field.name: getattr(targets, field.name) for field in fields(targets)}
        targets = FactoredTargets(**known, coefficients_PR=coefficients_PR, basis=basis)
    return Teacher(logits_PV, targets)


def make_top_two(logits_PV):
    """Top-2 records whose tail's moments are not rounded, as stored ones are."""
    top = logits_PV.double().sort(descending=True)
    tail_PV = top.values[:, 2:]
    log_partition_PK = torch.stack([(tail_PV / t).logsumexp(-1) for t in TEMPERATURES], 1)
    mean_PK = torch.stack([((tail_PV / t).softmax(-1) * tail_PV).sum(-1) for t in TEMPERATURES], 1)
    P, V = logits_PV.shape
    return SparseTargets(
        ids_PE=top.indices[:, :2],
        relative_PE=top.values[:, :2].float(),
        maximum_P=torch.zeros(P),
        inclusion_PE=torch.ones(P, 2),
        num_certain_P=torch.full((P,), 2),
        num_classes=V,
        curve=TailCurve(TEMPERATURES, log_partition_PK.float(), mean_PK.float()),
    )


@pytest.fixture(scope="session")
def teacher():
    return make_teacher


@pytest.fixture(scope="session")
def price():
    return surplus_price


@pytest.fixture(scope="session")
def top_two():
    return make_top_two


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
