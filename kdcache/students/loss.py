"""StudentWithLoss: body, LM head and loss in one forward.

DeepSpeed gathers a ZeRO-3 weight only inside the forward of the module that owns it, so the loss is computed there:
the student's head becomes a FusedHead, which gets the supervised positions alone and never makes positions × classes.
At start it is compared once with the model's own logits, with the body's output scaled up until the logits reach 50,
so that a soft-cap shows even where fresh weights give logits near 0. A model that differs (soft-cap, logit scale)
runs unfused: its own logits of the whole micro-batch exist at one time. So do those of classifications, which have
few classes.

Terms that are not of logits (kdcache/losses/beside_term.py) get the forward pass to look at. Their modules stand beside
the student, so that all ZeRO stages train them; they do nothing in an evaluation.

B examples, L tokens, P positions, D hidden width, C classes.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from kdcache.errors import StudentError
from kdcache.losses.beside_term import Pass
from kdcache.losses.fused import FusedHead, FusedLoss
from kdcache.losses.metrics import FusedSums, measure
from kdcache.losses.terms import LossTerms
from kdcache.losses.unfused import head_loss
from kdcache.models.head import widen_head
from kdcache.models.loading import HEADS, classifier_head, inputs_of, reads_last_token
from kdcache.models.modes import evaluating
from kdcache.progress import say
from kdcache.students.collate import Inputs

__all__ = ["StudentWithLoss", "head_width", "with_loss"]

LARGE_LOGIT = 50.0


class StudentWithLoss(nn.Module):
    """forward(inputs, terms) gives (loss, sums_K) as FusedLoss does; without terms, the vector of Sums, and of a
    classification (vector, float32 logits [P, C]).

    modules: of the terms that have one, by their place; they are numbered in this order in `beside`.
    """

    def __init__(
        self, student: Any, *, fused: bool, chunk: int, modules: Mapping[int, nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.student = student
        self._places = tuple(modules or {})
        self.beside = nn.ModuleList((modules or {}).values())
        self.fused, self.chunk = fused, chunk
        # DeepSpeed's converter of checkpoints wants it in every checkpoint of stages 1 and 2.
        self.universal_checkpoint_info = {"universal_checkpoint_version": 0.2}

    def forward(self, inputs: Inputs, terms: LossTerms | None = None, temperature: float = 1.0) -> Any:
        supervision = inputs.supervision
        arguments = {**inputs.model.arguments, **_arguments_of(terms)}
        if self.fused:
            head = head_of(self.student)
            out = self.student.base_model(**arguments, use_cache=False)
            hidden_PD = out.last_hidden_state.flatten(0, 1)[inputs.flat_P]
            if terms is None:
                return head(hidden_PD, task=FusedSums(supervision, temperature=temperature, chunk=self.chunk))
            loss, sums_K = head(hidden_PD, task=FusedLoss(terms, supervision, chunk=self.chunk))
            return self._with_those_beside(loss, sums_K, terms, inputs, out, hidden_PD)
        causal = {"use_cache": False} if generates(self.student) else {}
        with self._inputs_of_head(terms) as seen:
            out = self.student(**arguments, **causal)
            logits_PV = inputs.at_positions(out.logits)
        if terms is None:
            vector = measure(logits_PV, supervision, temperature=temperature, chunk=self.chunk).vector
            return vector if causal else (vector, logits_PV.float())
        loss, sums_K = head_loss(logits_PV, terms, supervision, self.chunk)
        hidden = None
        if seen:
            last = not causal and reads_last_token(self.student)
            pad = self.student.config.pad_token_id if last else None
            hidden = inputs.at_last(seen[0], pad) if last else inputs.at_positions(seen[0])
        return self._with_those_beside(loss, sums_K, terms, inputs, out, hidden)

    def _inputs_of_head(self, terms: LossTerms | None) -> AbstractContextManager[list[Tensor]]:
        """Where a term wants them; a classifier's head may have any name otherwise."""
        wanted = terms is not None and any(term.needs_hidden for term in terms.beside.values())
        return inputs_of(head_of(self.student)) if wanted else nullcontext([])

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
    """Swap in the fused head where it is the model's own, before DeepSpeed takes the model. modules: of terms."""
    fused = generates(student) and fits_fused_head(student)
    if fused:
        student.get_output_embeddings().__class__ = FusedHead
    else:
        widen_head(student)
    if generates(student) and not fused:
        say(
            f"warning: the head of {type(student).__name__} is more than a linear layer (soft-cap, scale); "
            "its logits are made whole, which takes micro_batch × length × classes × 4 bytes and more"
        )
    return StudentWithLoss(student, fused=fused, chunk=chunk, modules=modules)


def generates(student: Any) -> bool:
    """Whether it has a head over a vocabulary; classifications do not."""
    return student.get_output_embeddings() is not None


def head_of(student: Any) -> Any:
    """The last layer. Raises StudentError where a classification has none by a usual name."""
    if generates(student):
        return student.get_output_embeddings()
    head = classifier_head(student)
    if head is None:
        raise StudentError(f"{type(student).__name__} has no head, expected one called {' or '.join(HEADS)}")
    return head


def head_width(student: Any) -> int:
    """How many numbers the head is fed with at a position."""
    head = head_of(student)
    return int(head.in_features if isinstance(head, nn.Linear) else student.config.hidden_size)


@torch.no_grad()
def fits_fused_head(student: Any) -> bool:
    """Whether the model's logits are its output layer applied to its body's output, and nothing more."""
    head = student.get_output_embeddings()
    body = student.base_model
    if type(head) not in (nn.Linear, FusedHead) or body is student:
        return False
    ids_1L = torch.arange(1, 9, device=head.weight.device)[None] % head.out_features
    with evaluating(student):
        hidden_LD = body(input_ids=ids_1L, use_cache=False).last_hidden_state[0]
        factor = LARGE_LOGIT / nn.Linear.forward(head, hidden_LD).abs().max().clamp(min=1e-6)

        def enlarge(module: nn.Module, arguments: Any, output: Any) -> Any:
            output.last_hidden_state = output.last_hidden_state * factor
            return output

        with body.register_forward_hook(enlarge):
            whole_LV = student(input_ids=ids_1L, use_cache=False).logits[0]
        return torch.allclose(nn.Linear.forward(head, hidden_LD * factor), whole_LV, rtol=1e-2, atol=LARGE_LOGIT / 100)
