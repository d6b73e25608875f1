"""Multinomial sampling with replacement, to compare with: "Sparse Logit Sampling" (arXiv 2503.16870).

N draws from the teacher's softmax at T = 1; an id drawn c times has the weight c / N, which is p / π with
π = N p / c: so a record is TeacherTargets with that inclusion. Stored as the ids and their counts. At another
temperature the weights are p(T) / π scaled to sum to 1, with the exact p: more than its ids and counts know.

P positions, V classes, E entries, N draws.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdcache.targets.curve import TailCurve
from kdcache.targets.fields import Field, class_dtype
from kdcache.targets.record import TeacherTargets
from kdcache.targets.sparse_targets import SparseTargets

__all__ = ["Multinomial"]


@dataclass(frozen=True)
class Multinomial:
    """One draw's records, ids in their order of count, largest first."""

    ids_PE: Tensor
    counts_PE: Tensor

    @classmethod
    def drawn(cls, logits_PV: Tensor, draws: int, generator: torch.Generator) -> "Multinomial":
        drawn_PN = logits_PV.softmax(-1).multinomial(draws, replacement=True, generator=generator).sort(-1).values
        first_PN = torch.nn.functional.pad(drawn_PN[:, 1:] != drawn_PN[:, :-1], (1, 0), value=True)
        entry_PN = first_PN.cumsum(-1) - 1
        counts_PN = torch.zeros_like(drawn_PN).scatter_add_(1, entry_PN, torch.ones_like(drawn_PN))
        ids_PN = torch.zeros_like(drawn_PN).scatter_(1, entry_PN, drawn_PN)
        counts_PN, order = counts_PN.sort(dim=-1, descending=True, stable=True)
        longest = int((counts_PN > 0).sum(-1).max())
        return cls(ids_PN.gather(1, order)[:, :longest], counts_PN[:, :longest])

    def targets(self, logits_PV: Tensor, temperatures: tuple[float, ...]) -> TeacherTargets:
        """logits_PV: the rows it was drawn from."""
        draws = self.counts_PE.sum(-1, keepdim=True)
        p_PE = logits_PV.softmax(-1).gather(1, self.ids_PE)
        partitions = [(logits_PV / temperature).logsumexp(-1) for temperature in temperatures]
        return SparseTargets(
            ids_PE=self.ids_PE,
            relative_PE=logits_PV.gather(1, self.ids_PE),
            maximum_P=torch.zeros(len(logits_PV)),
            inclusion_PE=torch.where(self.counts_PE > 0, draws * p_PE / self.counts_PE.clamp(min=1), 0.0),
            num_certain_P=torch.zeros(len(logits_PV), dtype=torch.int64),
            num_classes=logits_PV.shape[1],
            curve=TailCurve(temperatures, torch.stack(partitions, 1), torch.zeros(len(logits_PV), len(temperatures))),
            tail="sampled",
        )

    def arrays(self, num_classes: int, *, by_id: bool) -> dict[str, np.ndarray]:
        """by_id: in the order of ids, each less the one before, instead of that of counts."""
        counts_PE, ids_PE = self.counts_PE, self.ids_PE
        if by_id:
            order = torch.where(counts_PE > 0, ids_PE, num_classes).argsort(-1)
            counts_PE, ids_PE = counts_PE.gather(1, order), ids_PE.gather(1, order)
            ids_PE = ids_PE.diff(dim=1, prepend=torch.zeros_like(ids_PE[:, :1]))
        kept_PE = counts_PE > 0
        return {
            "entry_counts": kept_PE.sum(-1).numpy().astype(np.uint32),
            "ids": ids_PE[kept_PE].numpy().astype(class_dtype(num_classes)),
            "counts": counts_PE[kept_PE].numpy().astype(np.uint8),
        }

    @staticmethod
    def fields(num_classes: int) -> list[Field]:
        return [Field("ids", "entry", class_dtype(num_classes)), Field("counts", "entry", "uint8")]
