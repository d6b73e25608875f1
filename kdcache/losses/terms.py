"""LossTerms: a weighted sum of terms, its value and its closed-form gradient on a chunk of logits.

A chunk is worked through in blocks of rows that stay in the processor's cache. Terms of the softmax do it together
(softmax_terms.py); those of the raw outputs each by itself (output_term.py), for their rows are short. Terms that are
not of logits (beside_term.py) have a place in the names, the sums and the total, and whoever runs the student fills it.

Values are sums over positions: whoever knows the global batch divides them.

P positions, V classes, C = K of outputs, K terms.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.losses.beside_term import BesideTerm
from kdcache.losses.output_term import OutputTerm
from kdcache.losses.softmax_term import SoftmaxTerm
from kdcache.losses.softmax_terms import Compared, SoftmaxTerms
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import Term
from kdcache.targets.record import TeacherTargets

__all__ = ["LossTerms"]

# A processor's cache; enough work for each of a GPU's kernels.
_OF_ENTRIES = 256
"""Columns of logits for each entry of the positions whose references exist at one time: a tenth of a chunk or less."""
_BLOCK_BYTES, _GPU_BLOCK_BYTES = 4 << 20, 256 << 20


class LossTerms:
    """A weighted sum of loss terms: its value, and its gradient by a block of logits.

    Args:
        terms: The terms, such as `make_term` makes.
        num_classes: Columns of the teacher's logits, as the header of the cache says.
        class_weights: For the terms that weigh classes, by their place in `terms`, a weight for each class.

    Attributes:
        names: One for each term, for logs, such as ("forward_kl@2", "cross_entropy"). Those after the first of a name
            are numbered, "forward_kl@2#2", so that a term keeps its name when others follow it.
        scales: What a term's sum counts in the total: its weight, times T² where it is of a softmax at T.
        beside: The terms that are not of logits, by their place.
    """

    def __init__(
        self, terms: Sequence[Term], num_classes: int, class_weights: Mapping[int, Sequence[float]] | None = None
    ) -> None:
        self._class_weights = {k: torch.tensor([*weights]) for k, weights in (class_weights or {}).items()}
        self.terms, self.num_classes = tuple(terms), num_classes
        self.names = _names(self.terms)
        self.scales = tuple(term.scale for term in self.terms)
        each = list(enumerate(self.terms))
        self.beside = {k: term for k, term in each if isinstance(term, BesideTerm)}
        self._of_outputs = {k: term for k, term in each if isinstance(term, OutputTerm)}
        of_softmax = {k: term for k, term in each if isinstance(term, SoftmaxTerm)}
        self._softmax = SoftmaxTerms(of_softmax, self.scales, num_classes)

    def total(self, sums_K: Tensor) -> Tensor:
        """The loss as a sum over positions.

        Args:
            sums_K: The sum of each plain term, [K].

        Returns:
            Σ scale · sum, a scalar.
        """
        return sum((scale * sums_K[k] for k, scale in enumerate(self.scales)), start=sums_K.new_zeros(()))

    def gradient_unit(self, dtype: torch.dtype) -> float:
        """What a gradient by the logits is kept times until a loss scale meets it: a power of two, 1 but for float16.

        A gradient is about Σ scale / T large, a V-th of that for a mean over classes, and float16 has nothing below
        6e-8: a small one would be gone before the loss scale of mixed precision, which comes in the backward pass.
        """
        if dtype != torch.float16:
            return 1.0
        of_outputs = sum(self.scales[k] / self.num_classes for k in self._of_outputs)
        size = sum(self._softmax.gradient_size(k) for k in self._softmax.terms) + of_outputs
        return 2.0 ** -round(math.log2(size)) if size else 1.0

    def value_and_gradient_(
        self, logits_PV: Tensor, supervision: Supervision, weights_PK: Tensor | None = None
    ) -> Tensor:
        """Sums of the plain terms over the positions, float64 [K]; logits_PV becomes the gradient of `total`.

        They are in nats, in nats² for a matched entropy, and in what outputs are measured in; weights count in them; 0
        for what is not of logits.

        Args:
            logits_PV: float32 or float64 [P, num_classes or more].
            supervision: What these positions are compared with.
            weights_PK: What each position counts in each term, constants; [P, 1] for the same in all terms.
        """
        (chunk,) = self.in_chunks(supervision, len(logits_PV), like_PV=logits_PV, weights_PK=weights_PK)
        return chunk.value_and_gradient_(logits_PV)

    def in_chunks(
        self,
        supervision: Supervision,
        chunk: int,
        *,
        like_PV: Tensor,
        weights_PK: Tensor | None = None,
    ) -> Iterator["Chunk"]:
        """What logits are compared with, chunk after chunk of so many positions.

        What a chunk needs of the teacher takes a hundred small operations, as many for thousands of positions as for
        one: it is made for as many chunks at once as keep it a small part of a chunk of logits.

        Args:
            supervision: What all the positions are compared with; at least one chunk comes, of no positions if need be.
            chunk: Positions.
            like_PV: A tensor as wide as the logits, of their type and device.
            weights_PK: As of `value_and_gradient_`.
        """
        P, dtype, chunk = supervision.num_positions, like_PV.dtype, max(chunk, 1)
        rows, targets = self._block_rows(like_PV), supervision.targets
        entries = 1 if targets is None or targets.wide else targets.ids_PE.shape[1]
        at_once = max(1, like_PV.shape[1] // (_OF_ENTRIES * entries)) * chunk
        for start in range(0, max(P, 1), at_once):
            whole = slice(start, start + at_once)
            part = supervision if at_once >= P else supervision[whole]
            weights = self._weights(part, None if weights_PK is None else weights_PK[whole], like_PV)
            outputs = {k: term.values(part, self.num_classes, dtype) for k, term in self._of_outputs.items()}
            compared = self._softmax.compared(part, like_PV, min(rows, chunk)) if self._softmax.terms else None
            for first in range(0, max(part.num_positions, 1), chunk):
                last = min(first + chunk, part.num_positions)
                yield Chunk(self, slice(start + first, start + last), first, compared, outputs, weights)
            del part, weights, outputs, compared  # before the next are made

    def _turn_(self, logits_PV: Tensor, chunk: "Chunk") -> Tensor:
        values: list[list[Tensor]] = [[] for _ in self.names]
        rows = self._block_rows(logits_PV)
        for start in range(0, len(logits_PV), rows):
            block_PV = logits_PV[start : start + rows]
            block = slice(chunk.first + start, chunk.first + start + len(block_PV))
            of_block = [None if weight_P is None else weight_P[block] for weight_P in chunk.weights]
            values_PK = {k: whole_PK[block] for k, whole_PK in chunk.outputs.items()}
            slopes_PK = self._slopes_of_outputs(block_PV[:, : self.num_classes], values_PK, of_block, values)
            if chunk.compared is None:
                block_PV.zero_()
            else:
                self._softmax.block_(block_PV, chunk.compared, block, of_block, values)
            if slopes_PK is not None:
                block_PV[:, : self.num_classes] += slopes_PK
        zero = logits_PV.new_zeros((), dtype=torch.float64)
        return torch.stack([torch.cat(v).sum(dtype=torch.float64) if v else zero for v in values])

    def check(self, targets: TeacherTargets) -> None:
        """See whether records answer the terms, before a run.

        Args:
            targets: Some records of the cache.

        Raises:
            ConfigError: They cannot answer a term's kind or one of its temperatures.
        """
        self._softmax.check(targets)
        unlabelled = Supervision(torch.zeros(targets.num_positions, dtype=torch.int64), targets)
        for term in self._of_outputs.values():
            if term.needs_teacher:
                term.values(unlabelled, self.num_classes, torch.float32)

    def _weights(self, supervision: Supervision, weights_PK: Tensor | None, logits_PV: Tensor) -> list[Tensor | None]:
        """What each position counts in each term, [P] of the logits' type; None for 1."""
        weights: list[Tensor | None] = [None] * len(self.terms)
        if weights_PK is not None:
            weights = [*weights_PK.to(logits_PV.dtype).expand(-1, len(self.terms)).unbind(1)]
        for k, weights_C in self._class_weights.items():
            by_class_P, given_P = weights_C.to(logits_PV)[supervision.labels_P.clamp(min=0)], weights[k]
            weights[k] = by_class_P if given_P is None else by_class_P * given_P
        return weights

    def _slopes_of_outputs(
        self,
        outputs_PK: Tensor,
        values_PK: Mapping[int, Tensor],
        weights: Sequence[Tensor | None],
        values: Sequence[list[Tensor]],
    ) -> Tensor | None:
        """Of the terms of raw outputs together; each one's values at the end of its list. None without such terms."""
        total_PK = None
        for k, term in self._of_outputs.items():
            value_P, slopes_PK = term.compare(outputs_PK, values_PK[k])
            weight_P = weights[k]
            if weight_P is None:
                slopes_PK *= self.scales[k]
            else:
                value_P, slopes_PK = value_P * weight_P, slopes_PK * (self.scales[k] * weight_P[:, None])
            values[k].append(value_P)
            total_PK = slopes_PK if total_PK is None else total_PK + slopes_PK
        return total_PK

    def _block_rows(self, logits_PV: Tensor) -> int:
        block_bytes = _BLOCK_BYTES if logits_PV.device.type == "cpu" else _GPU_BLOCK_BYTES
        return max(1, block_bytes // (logits_PV.shape[1] * logits_PV.element_size()))


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some positions' part of a comparison.

    Attributes:
        rows: Which positions.
        first: Their place among those that `compared`, `outputs` and `weights` are of.
    """

    terms: LossTerms
    rows: slice
    first: int
    compared: Compared | None
    outputs: Mapping[int, Tensor]
    weights: Sequence[Tensor | None]

    def value_and_gradient_(self, logits_PV: Tensor) -> Tensor:
        """As that of LossTerms, of these positions' logits."""
        return self.terms._turn_(logits_PV, self)


def _names(terms: Sequence[Term]) -> tuple[str, ...]:
    plain = [term.log_name for term in terms]
    before = [plain[:k].count(name) for k, name in enumerate(plain)]
    return tuple(f"{name}#{count + 1}" if count else name for name, count in zip(plain, before, strict=True))
