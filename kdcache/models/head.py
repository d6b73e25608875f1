"""Head: the part of a model from what its body hands over to its logits.

One object answers, for teachers and students, language models and classifiers: what the body hands over, what the head
does with it, and by which formula. Language models are probed once (head_probe.py); the answers are

  splits   the body can be run alone, and the head on some of its positions: dump's blocks of logits, hidden states
  fuses    moreover the logits are cap(scale · (W h + b)): the fused loss
  output_layer()  that formula with its numbers: the calibration and the encoder of factored records

A classifier's head is not probed: its logits are few and are made whole. What is asked of it is what its body hands
over (`handed_over`), what its head is fed with (`fed`), and which row of that belongs to a position (`at_positions`).

From the output layer on all is float32, whatever the model's dtype (wide_linear.py).

B examples, L tokens, P positions, D hidden width, V classes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcache.errors import TeacherError
from kdcache.models.head_file import load_shell, probe_shell
from kdcache.models.head_parts import head_module, is_language_model, output_layer_of, reads_last_token
from kdcache.models.head_probe import Found, probe
from kdcache.models.inputs import at_last
from kdcache.models.replay import replayed
from kdcache.models.taps import inputs_of, outputs_of
from kdcache.models.wide_linear import WideLinear, widen
from kdcache.targets.output_layer import OutputLayer, PostFunction

__all__ = ["Head"]


class Head:
    """The head of a model, which stays where it is: names, tied weights and devices are the model's.

    Attributes:
        model: the whole model.
        layer: the output layer, a WideLinear; None where the logits are not those of a plain linear layer.
        module: what the body's output goes into: the output layer of a language model, all of a classifier's head;
            None where it has no usual name.
        norm: the final norm, of a head that was loaded without its body; None where it cannot be told.
        found: what the probe found; None for a classifier.
    """

    def __init__(self, model: Any, *, probed: bool) -> None:
        """Makes the output layer of a model wide, and probes it.

        Args:
            model: a model of transformers, placed.
            probed: whether it is a language model, to be probed.
        """
        self.model, self.module = model, head_module(model)
        self.norm: nn.Module | None = None
        layer = output_layer_of(model)
        self.layer: WideLinear | None = layer if widen(layer) else None  # type: ignore[assignment]
        self.found: Found | None = probe(model, model.get_output_embeddings()) if probed else None

    @classmethod
    def of(cls, model: Any) -> "Head":
        """The head of a language model or of a classifier, whichever it is."""
        return cls(model, probed=is_language_model(model))

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> "Head":
        """The head of a language model with its final norm, from a checkpoint, without the body.

        Args:
            folder: a folder that save_pretrained wrote: config.json and safetensors, whole or in shards with an index.
            dtype: of the weights; None for that of the files.
            device: where they go.

        Returns:
            A head whose `logits`, `run` and `output_layer` work as those of the whole model do.

        Raises:
            TeacherError: it is no language model's folder, lacks a weight of the head, or the head needs its body.
        """
        model, norm = load_shell(folder, dtype, device)
        head = cls(model, probed=False)
        head.norm, head.found = norm, probe_shell(model, model.get_output_embeddings())
        return head

    @property
    def generates(self) -> bool:
        """Whether it is a language model's."""
        return self.found is not None

    @property
    def splits(self) -> bool:
        """Whether head and body can be run apart."""
        return self.found is not None and self.found.splits

    @property
    def post(self) -> PostFunction | None:
        """What the model does to its output layer's logits; None where that is not known."""
        return None if self.found is None else self.found.post

    @property
    def fuses(self) -> bool:
        """Whether logits can be made, chunk by chunk, of the output layer's weight: a loss needs no more."""
        layer, found = self.layer, self.found
        if layer is None or found is None or found.post is None or found.never_V is not None:
            return False
        return found.num_rows == layer.out_features

    def hidden(self, **arguments: Any) -> Tensor:
        """What the body hands over at every token, [B, L, D]. For a head that `splits`."""
        hidden_BLD: Tensor = self.model.base_model(**arguments).last_hidden_state
        return hidden_BLD

    def logits(self, hidden_PD: Tensor, *, before_norm: bool = False, memory: Tensor | None = None) -> Tensor:
        """The model's own logits for what its body hands over.

        Args:
            hidden_PD: [P, D], after the model's final norm. For a head that `splits`.
            before_norm: whether they are the states before the final norm instead, the last layer's output. For a
                head that was loaded without its body.
            memory: float32 [at least P·V] on the model's device, into which the output layer may put its product; the
                logits may then lie there. Without gradients.

        Returns:
            [P, V], float32 unless the model rounds them.

        Raises:
            TeacherError: the final norm is asked for and cannot be told.
        """
        if before_norm:
            hidden_PD = self.normed(hidden_PD)
        with nullcontext() if memory is None or self.layer is None else self.layer.into(memory):
            return replayed(self.model, hidden_PD)

    def normed(self, states_PD: Tensor) -> Tensor:
        """The last layer's output after the model's final norm. For a head that was loaded without its body.

        Raises:
            TeacherError: the final norm cannot be told.
        """
        if self.norm is None:
            raise TeacherError(
                f"got states before the final norm of {type(self.model).__name__}, which cannot be found, expected "
                "states after it"
            )
        normed_PD: Tensor = self.norm(states_PD)
        return normed_PD

    def run(self, hidden_PD: Tensor, task: Callable[..., Any]) -> Any:
        """Does a task, such as the fused loss, inside the output layer's forward. For a head that `fuses`.

        Args:
            hidden_PD: what the body hands over at some positions, [P, D].
            task: called with hidden_PD, weight, bias, and `post=` where the model does something to the logits.
        """
        assert self.layer is not None
        assert self.post is not None
        return self.layer(hidden_PD, task=task if self.post.is_plain else partial(task, post=self.post))

    def output_layer(self) -> OutputLayer | None:
        """The formula of the logits with its numbers; None where it is not known.

        Classes that are never given have a bias of −inf.
        """
        if self.post is None or self.found is None:
            return None
        layer: Any = self.model.get_output_embeddings()
        bias_V, never_V = layer.bias, self.found.never_V
        if never_V is not None and len(never_V) == len(layer.weight):
            bias_V = layer.weight.new_zeros(len(never_V)) if bias_V is None else bias_V
            bias_V = bias_V.masked_fill(never_V.to(bias_V.device), -torch.inf)
        return OutputLayer(layer.weight, bias_V, self.post.soft_cap, self.post.scale)

    @property
    def shows_states(self) -> bool:
        """Whether `handed_over` can be asked: of a model with a body, or with a head by a usual name."""
        return self.model.base_model is not self.model or self.module is not None

    def handed_over(self) -> AbstractContextManager[list[Tensor]]:
        """What the body gives while this lasts, or, of a model that is not body and head, what its head is fed with."""
        body = self.model.base_model
        return self.fed() if body is self.model else outputs_of(body)

    def fed(self) -> AbstractContextManager[list[Tensor]]:
        """What the head is fed with while this lasts, call by call."""
        assert self.module is not None
        return inputs_of(self.module)

    def at_positions(self, states: Tensor, logits: Tensor, ids_BL: Tensor, flat_P: Tensor) -> Tensor:
        """The rows of hidden states that make the logits of some positions.

        Args:
            states: [B, L, D], or [B, D], one row for each example.
            logits: what the model gave with them, [B, L, V], or [B, V] of a model that classifies examples.
            ids_BL: the tokens.
            flat_P: where the positions are among the B·L tokens.

        Returns:
            [P, D]. Where one row of logits is made of the last token, as decoders do, the states of that token.
        """
        if states.ndim == 2:
            return states[flat_P // ids_BL.shape[1]]
        if logits.ndim == 2 and reads_last_token(self.model):
            return at_last(states, ids_BL, self.model.config.pad_token_id, flat_P)
        return states.flatten(0, 1)[flat_P]
