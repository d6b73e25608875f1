"""Whether a model's logits depend on an example's neighbours: others in its batch, in its window, or read before it.

Rows are made of the run's own first examples, of unequal lengths, the longest as long as examples of the run can be,
since some dependences show at length alone (long RoPE factors chosen by the longest position of a batch, sliding
windows, chunks). They run as the run will, and each document, or each example where documents may see each other,
alone; log-probabilities are compared at up to 32 positions of each.

What rounding does to this model, in its dtype and on its device, is measured: the same rows alone with the last bit of
their embeddings changed. Of 60 families and of SmolLM2-135M, in float32 and bfloat16, other batches and packed rows
moved logits by at most once as much as that bit; the least leak that was met, a short convolution of weights near 0,
by 40 times as much in float32.

The price is about ten examples of full length, without their logits but at the compared positions.

P positions, C classes, B examples, L tokens, D hidden width.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdcache.errors import KdcacheError, one_line
from kdcache.models.feeding import Feeding
from kdcache.models.last_bit import embeddings_of, last_bit_changed
from kdcache.models.modes import evaluating
from kdcache.models.probes import Probes, make_probes
from kdcache.tasks import Example, task_of

__all__ = ["Findings", "find_feeding", "may_be_packed"]

TIMES_ROUNDING = 3.0
LEAST = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Nats that are rounding in any model of this dtype."""


@dataclass(frozen=True)
class Findings:
    """feeding: one that gives every example the logits it has alone. packing, batch: why it is not the first choice:
    what documents of one example, or examples of one batch, do to each other, in words; None where they do nothing.
    slower: how many times as long a batch takes so.
    """

    feeding: Feeding
    packing: str | None = None
    batch: str | None = None
    slower: float = 1.0


def may_be_packed(task: dict[str, Any], examples: Sequence[Example]) -> bool:
    """Whether an example of this task may hold several documents that do not see each other. task: its settings."""
    if task_of(task).attention != "document" or task.get("packing") == "documents":
        return False
    return task.get("packing") == "windows" or any(len(example.documents) > 1 for example in examples)


def find_feeding(
    model: Any,
    feeding: Feeding,
    examples: Sequence[Example],
    *,
    longest: int,
    batch_examples: int,
    packed: bool,
    shared: int | None = None,
) -> Findings:
    """How to feed a model so that no example's logits depend on its neighbours; the first choice is `feeding`.

    Nothing is run where nothing can differ.

    Args:
        model: Of transformers.
        feeding: How it is fed if its logits allow it.
        examples: The run's first ones.
        longest: Tokens of an example at most.
        batch_examples: Examples of a forward pass at most, where they are of that length; 1 if none ever shares one.
        packed: Whether examples may hold several documents that do not see each other.
        shared: Tokens at most of an example that shares a forward pass, where longer ones go alone.

    Raises:
        KdcacheError: The model's logits depend on what it has read before, or, of a language model, on the tokens that
            it shall predict.
    """
    if not examples or (batch_examples == 1 and not packed):
        return Findings(feeding)

    def found(length: int, rows: int, batch: int, feeding: Feeding, packed: bool) -> Findings:
        probes = make_probes(examples, longest=length, rows=rows, packed=packed, attention=feeding.attention)
        return _Check(model, probes, feeding).findings(batch)

    with evaluating(model), torch.no_grad():  # buffers that are made now are trained with later
        if shared is None or shared >= longest or batch_examples == 1:
            return found(longest, batch_examples, batch_examples, feeding, packed)
        alone = found(longest, 3, 1, feeding, packed)
        together = found(shared, batch_examples, batch_examples, alone.feeding, packed and not alone.feeding.apart)
    return replace(together, packing=alone.packing or together.packing)


class _Check:
    def __init__(self, model: Any, probes: Probes, feeding: Feeding) -> None:
        self.model, self.probes, self.feeding = model, probes, feeding
        self.alone = replace(feeding, together="one", apart=True)
        self.seconds_alone, expected, changed = 0.0, [], []
        for row in probes.rows:  # one straight after the other: what a model has read may change it
            expected.append(self._log_probs(self.alone, [row]))
            self.seconds_alone += self.seconds
            with last_bit_changed(model):
                changed.append(self._log_probs(self.alone, [row]))
        self.expected_PC, changed_PC = torch.cat(expected), torch.cat(changed)
        self.rounding = self._distances(changed_PC)
        self.limits = [TIMES_ROUNDING * size + LEAST.get(model.dtype, LEAST[torch.float32]) for size in self.rounding]

    def findings(self, batch_examples: int) -> Findings:
        feeding, packing, batch = self.feeding, None, None
        if self.probes.packed:
            packing = self._fault(replace(feeding, together="one"), self.probes.rows)
            feeding = replace(feeding, apart=packing is not None)
        slower = 1.0
        if batch_examples > 1:
            batch = self._fault(feeding, self.probes.rows)
            together = self.seconds
            if batch is not None:
                feeding = replace(feeding, together="equal")
                if self._equal_rows_differ(feeding):
                    feeding = replace(feeding, together="one")
                slower = self.seconds_alone / together if together else slower
        self._check_memory()
        self._check_sight()
        return Findings(feeding, packing, batch, slower)

    def _equal_rows_differ(self, feeding: Feeding) -> bool:
        rows = self.probes.equal
        expected_PC = self._log_probs(self.alone, rows)
        try:
            found_PC = self._log_probs(feeding, rows)
        except Exception:
            return True
        return bool((_rms(found_PC, expected_PC) > min(self.limits)).any())

    def _check_memory(self) -> None:
        """The rows alone again, in the other order."""
        again_PC = self._log_probs(self.alone, self.probes.rows[::-1], self.probes.rows)
        off = self._worst(again_PC)
        if off is not None:
            raise KdcacheError(
                f"{type(self.model).__name__} gives an example other logits after it has read others ({off}), expected "
                "a model without such memory: dynamic RoPE scaling needs examples no longer than its original "
                "positions, BigBird attention_type: original_full"
            )

    def _check_sight(self) -> None:
        """The last row with another last token: nothing before it may change."""
        if self.alone.attention == "full":
            return
        row = self.probes.rows[-1]
        other = replace(row, tokens=np.append(row.tokens[:-1], (row.tokens[-1] + 1) % max(row.tokens[-1], 2)))
        before, after = (self._log_probs(self.alone, [each])[:-1] for each in (row, other))
        if len(before) and float(_rms(after, before).mean()) > max(self.limits):
            raise KdcacheError(
                f"{type(self.model).__name__} lets a token see those after it, and so reads what it shall predict, "
                "expected a causal model: BERT and its like need is_decoder: true in their config"
            )

    def _fault(self, feeding: Feeding, rows: Sequence[Example]) -> str | None:
        try:
            return self._worst(self._log_probs(feeding, rows))
        except KdcacheError:
            raise
        except Exception as error:  # whatever a model says of inputs that it does not take
            return f"it says {type(error).__name__}: {one_line(error, 120)}"

    def _worst(self, found_PC: Tensor) -> str | None:
        """The document that is furthest off in words; None where all are within rounding."""
        off = self._distances(found_PC)
        worst = max(range(len(off)), key=lambda i: off[i] / self.limits[i])
        if off[worst] <= self.limits[worst]:
            return None
        return f"log-probabilities are off by {off[worst]:.2g} nats, where rounding is {self.rounding[worst]:.1g}"

    def _distances(self, found_PC: Tensor) -> list[float]:
        """How far each document's rows are from those alone: the mean over its positions."""
        parts = _rms(found_PC, self.expected_PC).split(self.probes.counts)
        return [float(part.mean()) for part in parts]

    def _log_probs(self, feeding: Feeding, rows: Sequence[Example], order: Sequence[Example] | None = None) -> Tensor:
        """[P, C], float32. order: of the rows in the result, where it is another."""
        started = time.perf_counter()
        parts = [
            _at_positions(self.model, inputs.to(_device(self.model)).arguments, flat_P)
            for inputs, flat_P in feeding.passes(rows)
        ]
        outputs_PC = torch.cat(parts).float().cpu()
        log_probs_PC = outputs_PC.log_softmax(-1) if outputs_PC.shape[1] > 1 else outputs_PC
        self.seconds = time.perf_counter() - started
        if order is None:
            return log_probs_PC
        of_row = dict(zip(map(id, rows), log_probs_PC.split([len(row.positions) for row in rows]), strict=True))
        return torch.cat([of_row[id(row)] for row in order])


def _rms(found_PC: Tensor, expected_PC: Tensor) -> Tensor:
    """Root mean square over the classes; what is not a finite number alone is not compared."""
    off_PC = torch.where(expected_PC.isfinite(), found_PC - expected_PC, 0.0)
    return off_PC.nan_to_num(nan=torch.inf).square().mean(-1).sqrt()


def _device(model: Any) -> torch.device:
    first = embeddings_of(model) or model
    device: torch.device = next(first.parameters()).device
    return device


def _at_positions(model: Any, arguments: dict[str, Tensor], flat_P: Tensor) -> Tensor:
    """Logits at the positions, [P, C]; a head over a vocabulary is given no other positions."""
    count = arguments["input_ids"].numel()
    flat_P = flat_P.to(arguments["input_ids"].device)
    head = model.get_output_embeddings()
    if head is None:
        logits = model(**arguments).logits
        return logits[flat_P // arguments["input_ids"].shape[1]] if logits.ndim == 2 else logits.flatten(0, 1)[flat_P]

    def pick(_: nn.Module, given: tuple[Any, ...]) -> Any:
        hidden = given[0]
        if hidden.ndim == 3 and hidden.shape[0] * hidden.shape[1] == count:
            return (hidden.flatten(0, 1)[flat_P.to(hidden.device)][None], *given[1:])
        return given

    with head.register_forward_pre_hook(pick):
        logits = model(**arguments, use_cache=False).logits
    return logits[0] if logits.shape[:2] == (1, len(flat_P)) else logits.flatten(0, 1)[flat_P.to(logits.device)]
