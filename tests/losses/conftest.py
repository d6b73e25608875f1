"""Teachers of every form, with the whole distribution beside them, for oracles.

P positions, E entries, V classes.
"""

from dataclasses import dataclass

import pytest
import torch

from kdcache.targets.curve import TailCurve
from kdcache.targets.record import TeacherTargets

TEMPERATURES = (0.5, 1.0, 2.0)


class Sample(TeacherTargets):
    """Entries kept with known probabilities: the weights divide by them."""

    def weights(self, temperature, estimator="normalised"):
        kept_PE = self.inclusion_PE > 0
        return torch.where(kept_PE, self.log_probs(temperature).exp() / self.inclusion_PE.clamp(min=1e-3), 0.0)


@dataclass(frozen=True)
class Teacher:
    """logits_PV: the rows that targets were made of."""

    logits_PV: torch.Tensor
    targets: TeacherTargets

    def reference(self, temperature, student_logits_PV):
        """(p, log q) in float64 on the classes that the record compares, and Σ p log p: the plain formula's parts."""
        p_PV = (self.logits_PV.double() / temperature).softmax(-1)
        log_q_PV = (student_logits_PV.double() / temperature).log_softmax(-1)
        if self.targets.dense:
            return p_PV, log_q_PV, (p_PV * p_PV.log()).sum(-1)
        used_PE = self.targets.inclusion_PE > 0
        rows = []
        for row, used in enumerate(used_PE):
            ids = self.targets.ids_PE[row][used]
            rest = torch.ones(p_PV.shape[1], dtype=torch.bool)
            rest[ids] = False
            p, log_q = p_PV[row, ids], log_q_PV[row, ids]
            if self.targets.tail == "renormalise":
                p = p / p.sum()
            elif self.targets.tail == "ghost":
                if rest.any():
                    p = torch.cat([p, p_PV[row, rest].sum()[None]])
                    log_q = torch.cat([log_q, log_q_PV[row, rest].logsumexp(0)[None]])
            else:
                p = p / self.targets.inclusion_PE[row][used]
            entropy_from = p if self.targets.tail in ("ghost", "renormalise") else p_PV[row]
            rows.append((p, log_q, torch.xlogy(entropy_from, entropy_from).sum()))
        return rows

    def forward_kl(self, temperature, student_logits_PV):
        """Oracle, [P], float64, differentiable in the student's logits."""
        parts = self.reference(temperature, student_logits_PV)
        if isinstance(parts, tuple):
            p, log_q, negative_entropy = parts
            return negative_entropy - (p * log_q).sum(-1)
        values = [negative_entropy - (p * log_q).sum() for p, log_q, negative_entropy in parts]
        return torch.stack(values) if values else student_logits_PV.double().sum(-1)


def make_teacher(P, V, form, seed=0, sharpness=2.0, entries=5):
    """form: dense, ghost, renormalise or sample. Rows of a sparse form hold 1 to `entries` entries."""
    generator = torch.Generator().manual_seed(seed)
    logits_PV = torch.randn(P, V, generator=generator) * sharpness
    if form == "dense":
        return Teacher(
            logits_PV,
            TeacherTargets(
                torch.arange(V).expand(P, V), logits_PV, torch.ones(P, V), torch.full((P,), V), V, curve=None
            ),
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
    targets = (Sample if form == "sample" else TeacherTargets)(
        ids_PE=torch.where(kept_PE, ids_PE, 0),
        logits_PE=torch.where(kept_PE, logits_PV.gather(1, ids_PE), 99.0),
        inclusion_PE=inclusion_PE,
        num_certain_P=certain_P,
        num_classes=V,
        curve=TailCurve(TEMPERATURES, log_partition_PK.float(), mean_PK.float()),
        tail=form,
    )
    return Teacher(logits_PV, targets)


@pytest.fixture(scope="session")
def teacher():
    return make_teacher


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
