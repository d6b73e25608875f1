"""StudentWithLoss: body, head and loss in one forward.

A language model's output layer computes the loss inside its own forward (losses/fused.py), because a ZeRO-3 weight is
gathered only there; it gets the supervised positions alone and never makes positions × classes. A head whose formula
is not known (models/head.py) runs unfused: its logits of the whole micro-batch exist at one time. So do those of
classifiers, which have few classes.

Terms that are not of logits (kdcache/losses/beside_term.py) get the forward pass to look at. Their modules stand beside
the student, so that all ZeRO stages train them; they do nothing in an evaluation.

B examples, L tokens, P positions, D hidden width, C classes.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from kdcache.errors import StudentError
from kdcache.losses.beside_term import Pass
from kdcache.losses.fused import FusedLoss
from kdcache.losses.metrics import FusedSums, Sums, measure
from kdcache.losses.terms import LossTerms
from kdcache.losses.unfused import loss_of_logits
from kdcache.models.head import Head
from kdcache.models.head_parts import HEADS, head_module, width_of
from kdcache.progress import say
from kdcache.students.collate import Inputs

__all__ = ["StudentWithLoss", "head_width", "with_loss"]


class StudentWithLoss(nn.Module):
    """A student whose forward pass gives its loss; `with_loss` makes one.

    Args:
        head: The head of the student, and with it the student.
        chunk: For how many positions logits exist at one time.
        modules: What terms train beside the student, by the terms' places; `beside` has them in this order.
    """

    def __init__(self, head: Head, *, chunk: int, modules: Mapping[int, nn.Module] | None = None) -> None:
        super().__init__()
        self.student, self.head, self.chunk = head.model, head, chunk
        self._places = tuple(modules or {})
        self.beside = nn.ModuleList((modules or {}).values())
        # DeepSpeed's converter of checkpoints wants it in every checkpoint of stages 1 and 2.
        self.universal_checkpoint_info = {"universal_checkpoint_version": 0.2}

    def forward(self, inputs: Inputs, terms: LossTerms | None = None, temperature: float = 1.0) -> Any:
        """Loss or scores of one batch.

        Args:
            inputs: What a Collator made of a Batch.
            terms: The loss; None to score the student in its place.
            temperature: The temperature of the KL to the teacher in a score.

        Returns:
            With terms (loss, sums_K): the loss as a sum over the batch's positions, and the sum of each plain term,
            detached. Without terms the vector of Sums, or for a classifier (vector, float32 logits [P, C]).
        """
        supervision = inputs.supervision
        arguments = {**inputs.model.arguments, **_arguments_of(terms)}
        if self.head.fuses:
            out = self.student.base_model(**arguments, use_cache=False)
            hidden_PD = out.last_hidden_state.flatten(0, 1).index_select(0, inputs.flat_P)
            if terms is None:
                return self.head.run(hidden_PD, FusedSums(supervision, temperature=temperature, chunk=self.chunk))
            loss, sums_K = self.head.run(hidden_PD, FusedLoss(terms, supervision, chunk=self.chunk))
            return self._with_those_beside(loss, sums_K, terms, inputs, out, hidden_PD)
        causal = {"use_cache": False} if self.head.generates else {}
        wanted = terms is not None and any(term.needs_hidden for term in terms.beside.values())
        with self.head.fed() if wanted else nullcontext([]) as seen:
            out = self.student(**arguments, **causal)
            outputs_PV = inputs.at_positions(out.logits)
        logits_PV = inputs.task.rows(outputs_PV)
        if terms is None:
            sums = Sums.of_positions(outputs_PV)
            if inputs.task.distributions:
                sums = measure(logits_PV, supervision, temperature=temperature, chunk=self.chunk)
            return sums.vector if causal else (sums.vector, outputs_PV.float())
        loss, sums_K = loss_of_logits(logits_PV, terms, supervision, self.chunk)
        hidden = None
        if seen:
            hidden = self.head.at_positions(seen[0], out.logits, inputs.model.arguments["input_ids"], inputs.flat_P)
        return self._with_those_beside(loss, sums_K, terms, inputs, out, hidden)

    def _with_those_beside(
        self, loss: Tensor, sums_K: Tensor, terms: LossTerms, inputs: Inputs, output: Any, hidden_PD: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The loss and the sums of the terms of logits, with those of the others in their places."""
        if not terms.beside:
            return loss, sums_K
        sums_K = sums_K.clone()
        modules = dict(zip(self._places, self.beside, strict=True))
        seen = Pass(self.student, output, hidden_PD, inputs.supervision, inputs.real_BL)
        for k, term in terms.beside.items():
            value = term.sum(modules.get(k), seen)
            loss = loss + terms.scales[k] * value
            sums_K[k] = value.detach()
        return loss, sums_K


def _arguments_of(terms: LossTerms | None) -> dict[str, Any]:
    """What terms ask of the model's forward."""
    wanted = () if terms is None else terms.beside.values()
    return {key: value for term in wanted for key, value in term.model_arguments.items()}


def with_loss(student: Any, *, chunk: int = 1024, modules: Mapping[int, nn.Module] | None = None) -> StudentWithLoss:
    """A student with its loss; its output layer is made one that computes the loss. Before DeepSpeed takes the model.

    Args:
        student: a transformers model.
        chunk: positions whose logits exist at one time.
        modules: of the terms that have one, by their place.
    """
    head = Head.of(student)
    if head.generates and not head.fuses:
        say(
            f"warning: the head of {type(student).__name__} is more than a linear layer with a scale or a soft-cap; "
            "its logits are made whole, which takes micro_batch × length × classes × 4 bytes and more"
        )
    return StudentWithLoss(head, chunk=chunk, modules=modules)


def head_width(student: Any) -> int:
    """How many numbers the head is fed with at a position.

    Raises:
        StudentError: a classifier has no head by a usual name.
    """
    if head_module(student) is None:
        raise StudentError(f"{type(student).__name__} has no head, expected one called {' or '.join(HEADS)}")
    return width_of(student)
