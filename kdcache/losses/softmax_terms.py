"""SoftmaxTerms: the terms of a student's softmax together, on one block of rows of logits after another.

Terms of one temperature share one softmax (softmax.py), and a row is passed over five times whatever they are:
maximum, what is above it, exponential, sum, product. That is what cross-entropy alone takes. Another temperature adds
four passes, three where it is half of another (a square for an exponential), the entropy temperature of weights five.
Another temperature takes one more block of memory, dense records and matched entropies a few.

Columns above the classes belong to the softmax with probability 0 in the target: surplus.py.

P positions, V classes, X columns above them, C compared classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.losses.entropy import entropy_weights, student_entropy, teacher_entropy
from kdcache.losses.reference import WIDE, Form, Pair, Reference
from kdcache.losses.softmax import MASKED, SharedSoftmax
from kdcache.losses.softmax_term import SoftmaxTerm
from kdcache.losses.supervision import Supervision
from kdcache.targets.record import TeacherTargets

__all__ = ["Compared", "SoftmaxTerms"]

Groups = Mapping[float, Mapping[Form, list[int]]]
"""Places of terms by temperature, the highest first, and by the form of what they are compared with."""


@dataclass(frozen=True)
class Compared:
    """What a chunk of logits is compared with. whole: references that are made for all rows at once.

    entropies: the teacher's, [P], for each entropy temperature of a weighted term. scratch: a block of memory for each
    other group, and for entropies.
    """

    supervision: Supervision
    groups: Groups
    whole: Mapping[tuple[float, Form], Reference]
    entropies: Mapping[float, Tensor]
    scratch: Tensor
    dtype: torch.dtype
    rows: int

    def references(self, block: slice) -> list[list[Reference]]:
        """Those of the rows of a block, by group and form."""
        return [
            [self._reference(temperature, form, block) for form in forms] for temperature, forms in self.groups.items()
        ]

    def _reference(self, temperature: float, form: Form, block: slice) -> Reference:
        if form not in WIDE:
            return self.whole[temperature, form][block]
        return Reference.of_supervision(self.supervision[block], temperature, form, self.dtype, self.rows)


class SoftmaxTerms:
    """terms: by their place among all terms. scales: what each counts in the total, by place."""

    def __init__(self, terms: Mapping[int, SoftmaxTerm], scales: Sequence[float], num_classes: int) -> None:
        self.terms, self.scales, self.num_classes = dict(terms), scales, num_classes
        self._shares = {k: term.share(num_classes) for k, term in self.terms.items()}
        self._entropy_temperatures = {
            k: at for k, term in self.terms.items() if (at := term.entropy_weight_temperature) is not None
        }

    def check(self, targets: TeacherTargets) -> None:
        """Raises ConfigError where such records cannot answer a term: its kind, or one of its temperatures."""
        for temperature, by_form in self._groups(targets).items():
            if set(by_form) - {"labels", "one_hot"}:
                targets.log_partition(temperature)
            if "entropy" in by_form and not targets.knows_entropy:
                targets.entropy(temperature)
        for temperature in self._entropy_temperatures.values():
            targets.log_partition(temperature)
            if not targets.knows_entropy:
                targets.entropy(temperature)

    def gradient_size(self, k: int) -> float:
        """How large a term's gradient by the logits is, roughly."""
        return self.scales[k] / self.terms[k].at * self._shares[k]

    def compared(self, supervision: Supervision, like_PV: Tensor, rows: int) -> Compared:
        """What logits of these positions are compared with, block by block of so many rows at most."""
        groups, dtype = self._groups(supervision.targets), like_PV.dtype
        whole = {
            (temperature, form): Reference.of_supervision(supervision, temperature, form, dtype, rows)
            for temperature, by_form in groups.items()
            for form in by_form
            if form not in WIDE
        }
        entropies = self._teacher_entropies(supervision.targets, dtype, rows)
        blocks = max(len(groups) - 1, 1 if entropies else 0)
        scratch = like_PV.new_empty(blocks, rows, self.num_classes)
        return Compared(supervision, groups, whole, entropies, scratch, dtype, rows)

    def _groups(self, targets: TeacherTargets | None) -> Groups:
        temperatures = {term.at for term in self.terms.values()}
        groups: dict[float, dict[Form, list[int]]] = {t: {} for t in sorted(temperatures, reverse=True)}
        for k, term in self.terms.items():
            groups[term.at].setdefault(term.form(targets), []).append(k)
        return groups

    def _teacher_entropies(self, targets: TeacherTargets | None, dtype: torch.dtype, rows: int) -> dict[float, Tensor]:
        if not self._entropy_temperatures:
            return {}
        assert targets is not None
        temperatures = set(self._entropy_temperatures.values())
        return {t: teacher_entropy(targets, t, rows).to(dtype) for t in sorted(temperatures)}

    def block_(
        self,
        logits_PV: Tensor,
        compared: Compared,
        block: slice,
        weights: Sequence[Tensor | None],
        values: Sequence[list[Tensor]],
    ) -> None:
        """A block's gradient into logits_PV, each term's values at the end of its list.

        weights: of each term's positions, [P]; None for 1.
        """
        groups, references, scratch = compared.groups, compared.references(block), compared.scratch
        teacher_entropies = {temperature: entropy_P[block] for temperature, entropy_P in compared.entropies.items()}
        surplus_PX = logits_PV[:, self.num_classes :] if logits_PV.shape[1] > self.num_classes else None
        logits_PV = logits_PV[:, : self.num_classes]
        maximum_P1 = logits_PV.amax(-1, keepdim=True)
        mixed = any(reference.mixture_PV is not None for some in references for reference in some)
        if mixed or teacher_entropies:
            if surplus_PX is not None:
                surplus_PX -= maximum_P1
            logits_PV -= maximum_P1  # the mean of large logits would round what they differ by
            logits_PV.clamp_(min=MASKED)
            maximum_P1 = torch.zeros_like(maximum_P1)
        weights = self._with_entropies(weights, logits_PV, teacher_entropies, scratch)
        softmaxes = [
            SharedSoftmax(logits_PV, surplus_PX, maximum_P1, temperature, its_references)
            for temperature, its_references in zip(groups, references, strict=True)
        ]
        exponentials = [*(spare[: len(logits_PV)] for spare in scratch[: len(groups) - 1]), logits_PV]
        for k, (softmax, u_PV) in enumerate(zip(softmaxes, exponentials, strict=True)):
            if k and softmaxes[k - 1].temperature == 2 * softmax.temperature:
                torch.mul(exponentials[k - 1], exponentials[k - 1], out=u_PV)
            else:
                softmax.exponentials(logits_PV, out=u_PV)
        gradient_PX = None if surplus_PX is None else torch.zeros_like(surplus_PX)
        # The last group's exponentials are the block itself: they become its gradient, and the others' is added.
        for softmax, u_PV, by_form in reversed(list(zip(softmaxes, exponentials, groups.values(), strict=True))):
            softmax.normalise(u_PV)
            slopes = [
                self._slopes(pair, members, softmax.temperature, weights, values)
                for pair, members in zip(softmax.pairs, by_form.values(), strict=True)
            ]
            priced_P1 = None
            if softmax.surplus is not None:
                assert gradient_PX is not None
                priced_P1 = self._priced(softmax, by_form.values(), weights, values)
                gradient_PX.addcmul_(softmax.surplus.probs_PX, priced_P1)
            softmax.add_gradient_(logits_PV, slopes, priced_P1)
        if surplus_PX is not None:
            assert gradient_PX is not None
            surplus_PX.copy_(gradient_PX)

    def _priced(
        self,
        softmax: SharedSoftmax,
        by_form: Iterable[list[int]],
        weights: Sequence[Tensor | None],
        values: Sequence[list[Tensor]],
    ) -> Tensor:
        """Add the price of the surplus columns to the terms' last values; return its factor in their slopes, [P, 1]."""
        assert softmax.surplus is not None
        price_P = softmax.surplus.price_P
        priced_P = torch.zeros_like(price_P)
        for pair, members in zip(softmax.pairs, by_form, strict=True):
            named_P = pair.reference.names_a_class_P.to(price_P.dtype)
            for k in members:
                weight_P, share = weights[k], self._shares[k]
                count_P = named_P * share if weight_P is None else named_P * weight_P * share
                values[k][-1] += count_P * price_P
                priced_P += count_P * (self.scales[k] / softmax.temperature)
        return priced_P[:, None]

    def _with_entropies(
        self,
        weights: Sequence[Tensor | None],
        logits_PV: Tensor,
        teacher_entropies: Mapping[float, Tensor],
        scratch: Tensor,
    ) -> list[Tensor | None]:
        """Each term's weights [P], None for 1, times its entropy weights. logits_PV: their row maxima are 0."""
        of_entropies = {
            t: entropy_weights(teacher_P, student_entropy(logits_PV, t, scratch[0, : len(logits_PV)]), self.num_classes)
            for t, teacher_P in teacher_entropies.items()
        }
        combined = [*weights]
        for k, temperature in self._entropy_temperatures.items():
            own_P, given_P = of_entropies[temperature], weights[k]
            combined[k] = own_P if given_P is None else own_P * given_P
        return combined

    def _slopes(
        self,
        pair: Pair,
        members: list[int],
        temperature: float,
        weights: Sequence[Tensor | None],
        values: Sequence[list[Tensor]],
    ) -> Tensor:
        """Terms of one reference: their values, and the slopes of their total, its derivative by T · log q, [P, C].

        The one place where padding is taken out of slopes; `Pair.masked` takes it out of values.
        """
        total_PC = None
        for k in members:
            term, weight_P, share = self.terms[k], weights[k], self._shares[k]
            scale = self.scales[k] / temperature
            if share != 1:
                scale /= self.num_classes
            value_P, slopes_PC = term.value(pair, self.num_classes), term.slopes(pair)
            if weight_P is None:
                slopes_PC *= scale
            else:
                value_P *= weight_P
                slopes_PC *= scale * weight_P[:, None]
            values[k].append(value_P)
            total_PC = slopes_PC if total_PC is None else total_PC.add_(slopes_PC)
        assert total_PC is not None
        return pair.masked(total_PC)
