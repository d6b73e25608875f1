"""LossTerms: a weighted sum of terms, its value and its closed-form gradient on a chunk of logits.

Terms of one temperature share one softmax (softmax.py), and a row is passed over five times whatever they are:
maximum, what is above it, exponential, sum, product. That is what cross-entropy alone takes. Another temperature adds
four passes, three where it is half of another (a square for an exponential), the entropy temperature of weights five.
A chunk is worked through in blocks of rows that stay in the processor's cache; another temperature takes one more
block of memory, dense records and matched entropies a few.

Bottleneck terms are not of logits: they have a place in the names, the sums and the total, and whoever holds the
student's hidden states fills it. So has the balancing loss of a mixture of experts, after all terms.

Columns above the classes belong to the softmax with probability 0 in the target: surplus.py.

Values are sums over positions: whoever knows the global batch divides them.

P positions, E entries, V classes, X columns above them, C compared classes, K terms.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from kdcache.losses.divergence import divergence_of_kind
from kdcache.losses.entropy import EntropyMatching, entropy_weights, student_entropy, teacher_entropy
from kdcache.losses.forward_kl import ForwardKL, cross_entropy
from kdcache.losses.reference import Divergence, Form, Pair, Reference, form_of
from kdcache.losses.settings import TermConfig
from kdcache.losses.softmax import MASKED, SharedSoftmax
from kdcache.losses.supervision import Supervision
from kdcache.targets.record import TeacherTargets

__all__ = ["LossTerms"]

# A processor's cache; enough work for each of a GPU's kernels.
_BLOCK_BYTES, _GPU_BLOCK_BYTES = 4 << 20, 256 << 20
# Forms of reference as wide as the logits: made for one block at a time.
_WIDE = ("dense", "expected")


class LossTerms:
    """names: one per term, for logs, such as ("forward_kl@2", "cross_entropy"); those after the first of a name are
    numbered, "forward_kl@2#2", so that a term keeps its name when others follow it.

    scales: what a term's sum counts in the total: its weight times T² or 1. bottlenecks: which terms are not of logits.
    class_weights: of the terms that have some, by their place, a weight for each class. balance: what the student's own
    balancing loss counts, as the last of the names; None for a student without one.
    """

    def __init__(
        self,
        terms: Sequence[TermConfig],
        num_classes: int,
        class_weights: Mapping[int, Sequence[float]] | None = None,
        *,
        balance: float | None = None,
    ) -> None:
        self._class_weights = {k: torch.tensor([*weights]) for k, weights in (class_weights or {}).items()}
        self.terms = tuple(terms)
        self.num_classes, self.balance = num_classes, balance
        extra = () if balance is None else (balance,)
        self.names = (*_names(self.terms), *("balance" for _ in extra))
        self.bottlenecks = tuple(k for k, term in enumerate(self.terms) if term.name == "bottleneck")
        self._of_logits = tuple(k for k, term in enumerate(self.terms) if term.name != "bottleneck")
        self._divergences = [_divergence(term) for term in self.terms]
        self._temperatures = [term.softmax_temperature or 1.0 for term in self.terms]
        self._entropy_temperatures = {
            k: term.entropy_temperature for k, term in enumerate(self.terms) if term.weighting == "entropy"
        }
        self.scales = (
            *(
                term.weight * (temperature**2 if term.temperature_squared else 1.0)
                for term, temperature in zip(self.terms, self._temperatures, strict=True)
            ),
            *extra,
        )

    def total(self, sums_K: Tensor) -> Tensor:
        """The loss, a sum over positions: Σ weight · (T² or 1) · sum of the plain term."""
        return sum((scale * sums_K[k] for k, scale in enumerate(self.scales)), start=sums_K.new_zeros(()))

    def gradient_unit(self, dtype: torch.dtype) -> float:
        """What a gradient by the logits is kept times until a loss scale meets it: a power of two, 1 but for float16.

        A gradient is about Σ scale / T large, a V-th of that for a mean over classes, and float16 has nothing below
        6e-8: a small one would be gone before the loss scale of mixed precision, which comes in the backward pass.
        """
        if dtype != torch.float16:
            return 1.0
        sizes = (
            self.scales[k] / self._temperatures[k] / (self.num_classes if self._is_class_mean(k) else 1)
            for k in self._of_logits
        )
        size = sum(sizes)
        return 2.0 ** -round(math.log2(size)) if size else 1.0

    def _is_class_mean(self, k: int) -> bool:
        return self.terms[k].reduction == "class_mean"

    def value_and_gradient_(
        self, logits_PV: Tensor, supervision: Supervision, weights_PK: Tensor | None = None
    ) -> Tensor:
        """Sums of the plain terms over the positions, float64 [K]; logits_PV becomes the gradient of `total`.

        They are in nats, and nats² for a matched entropy; weights count in them; 0 for what is not of logits.
        logits_PV: float32 or float64 [P, num_classes or more]. weights_PK: what each position counts in each term,
        constants; [P, 1] for the same in all terms.
        """
        if not self._of_logits:
            logits_PV.zero_()
            return logits_PV.new_zeros(len(self.names), dtype=torch.float64)
        values: list[list[Tensor]] = [[] for _ in self.names]
        if weights_PK is not None:
            weights_PK = weights_PK.to(logits_PV.dtype).expand(-1, len(self.terms))
        rows = self._block_rows(logits_PV)
        groups = self._groups(supervision.targets)
        whole = {
            (temperature, form): _reference(supervision, temperature, form, logits_PV.dtype, rows)
            for temperature, by_form in groups.items()
            for form in by_form
            if form not in _WIDE
        }
        of_labels = {
            k: weights_C.to(logits_PV)[supervision.labels_P.clamp(min=0)]
            for k, weights_C in self._class_weights.items()
        }
        entropies = self._teacher_entropies(supervision.targets, logits_PV.dtype, rows)
        scratch = logits_PV.new_empty(
            max(len(groups) - 1, 1 if entropies else 0), min(rows, len(logits_PV)), self.num_classes
        )
        for start in range(0, len(logits_PV), rows):
            block = slice(start, start + rows)
            references = [
                [
                    whole[temperature, form][block]
                    if form not in _WIDE
                    else _reference(supervision[block], temperature, form, logits_PV.dtype, rows)
                    for form in by_form
                ]
                for temperature, by_form in groups.items()
            ]
            weights = [None if weights_PK is None else weights_PK[block, k] for k in range(len(self.terms))]
            for k, by_class in of_labels.items():
                given_P = weights[k]
                weights[k] = by_class[block] if given_P is None else by_class[block] * given_P
            teachers = {temperature: entropy_P[block] for temperature, entropy_P in entropies.items()}
            self._block_(logits_PV[block], groups, references, weights, teachers, scratch, values)
        zero = logits_PV.new_zeros((), dtype=torch.float64)
        return torch.stack([torch.cat(v).sum(dtype=torch.float64) if v else zero for v in values])

    def check(self, targets: TeacherTargets) -> None:
        """Raises ConfigError where such records cannot answer a term: its kind, or one of its temperatures."""
        for temperature, by_form in self._groups(targets).items():
            if set(by_form) - {"labels", "one_hot"}:
                targets.log_partition(temperature)
        for temperature in self._entropy_temperatures.values():
            targets.log_partition(temperature)

    def _groups(self, targets: TeacherTargets | None) -> dict[float, dict[str, list[int]]]:
        """Terms of logits by temperature, the highest first, and by the form of what they are compared with."""
        temperatures = {self._temperatures[k] for k in self._of_logits}
        groups: dict[float, dict[str, list[int]]] = {t: {} for t in sorted(temperatures, reverse=True)}
        for k in self._of_logits:
            term, form = self.terms[k], "entropy" if self.terms[k].name == "entropy" else "labels"
            if term.name == "divergence":
                assert targets is not None
                form = form_of(targets, term.kind, self._divergences[k], term.estimator, term.softmax_temperature)
            groups[self._temperatures[k]].setdefault(form, []).append(k)
        return groups

    def _teacher_entropies(self, targets: TeacherTargets | None, dtype: torch.dtype, rows: int) -> dict[float, Tensor]:
        """[P] for each entropy temperature of a weighted term."""
        if not self._entropy_temperatures:
            return {}
        assert targets is not None
        temperatures = set(self._entropy_temperatures.values())
        return {t: teacher_entropy(targets, t, rows).to(dtype) for t in sorted(temperatures)}

    def _block_rows(self, logits_PV: Tensor) -> int:
        block_bytes = _BLOCK_BYTES if logits_PV.device.type == "cpu" else _GPU_BLOCK_BYTES
        return max(1, block_bytes // (logits_PV.shape[1] * logits_PV.element_size()))

    def _block_(
        self,
        logits_PV: Tensor,
        groups: Mapping[float, Mapping[str, list[int]]],
        references: Sequence[Sequence[Reference]],
        weights: Sequence[Tensor | None],
        teacher_entropies: Mapping[float, Tensor],
        scratch: Tensor,
        values: Sequence[list[Tensor]],
    ) -> None:
        """A block's gradient into logits_PV, each term's values at the end of its list. scratch: for other groups."""
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
                weight_P, share = weights[k], 1 / self.num_classes if self._is_class_mean(k) else 1.0
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
        """Terms of one reference: their values, and the slopes of their total, its derivative by T · log q, [P, C]."""
        total_PC = None
        for k in members:
            divergence, scale, weight_P = self._divergences[k], self.scales[k] / temperature, weights[k]
            if self._is_class_mean(k):
                value_P, scale = cross_entropy(pair) / self.num_classes, scale / self.num_classes
            else:
                value_P = divergence.value(pair)
            slopes_PC = divergence.slopes(pair)
            if weight_P is None:
                slopes_PC *= scale
            else:
                value_P *= weight_P
                slopes_PC *= scale * weight_P[:, None]
            values[k].append(value_P)
            total_PC = slopes_PC if total_PC is None else total_PC.add_(slopes_PC)
        assert total_PC is not None
        return total_PC


def _divergence(term: TermConfig) -> Divergence:
    """A cross-entropy is the forward KL of the label."""
    if term.name == "divergence":
        return divergence_of_kind(term.kind, term.parameters)
    return EntropyMatching() if term.name == "entropy" else ForwardKL()


def _reference(supervision: Supervision, temperature: float, form: str, dtype: torch.dtype, rows: int) -> Reference:
    if form == "labels":
        return Reference.one_hot(supervision.labels_P, dtype)
    assert supervision.targets is not None
    if form == "entropy":
        return Reference.of_entropy(teacher_entropy(supervision.targets, temperature, rows), dtype)
    return Reference.of(supervision.targets, temperature, cast(Form, form), dtype)


def _names(terms: Sequence[TermConfig]) -> tuple[str, ...]:
    plain = [_name(term) for term in terms]
    before = [plain[:k].count(name) for k, name in enumerate(plain)]
    return tuple(f"{name}#{count + 1}" if count else name for name, count in zip(plain, before, strict=True))


def _name(term: TermConfig) -> str:
    if term.name == "bottleneck":
        return f"bottleneck_{term.width}_{term.bottleneck_beta:g}"
    of_divergence = [term.kind, *(f"{value:g}" for value in term.parameters.values())]
    name = "_".join(of_divergence) if term.name == "divergence" else term.name
    if term.name != "cross_entropy" or term.softmax_temperature != 1:
        name += f"@{'article' if term.schedule == 'article' else ''}{term.temperature:g}"
    name += "_class_mean" * (term.reduction == "class_mean")
    if term.class_weights is not None:
        name += "_balanced" if term.class_weights == "balanced" else "_class_weights"
    name += "_horvitz_thompson" * (term.estimator == "horvitz_thompson")
    return name if term.weighting == "uniform" else f"{name}_weighted@{term.entropy_temperature:g}"
