"""Replay: a model's own forward over given hidden states, in the place of those of its body.

What a model does after its body, whatever it is, is so done by its own code, and needs no formula.

P positions, D hidden width, V classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Replay", "replayed"]


class Replay(nn.Module):
    """Stands in for a model's body and hands back given hidden states.

    It has the body's numbers, since some models keep a factor of their logits there (Falcon-H1).
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.hidden_1PD: Tensor | None = None
        for name, value in vars(body).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                setattr(self, name, value)

    @property
    def decoder(self) -> nn.Module:
        """Itself: some models call the decoder of their body (OPT)."""
        return self

    def forward(self, *args: object, **kwargs: object) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        class Output(BaseModelOutput):
            """None for whatever else a body gives: router logits, a state."""

            def __getattr__(self, name: str) -> None:
                return None

        return Output(last_hidden_state=self.hidden_1PD)


@contextmanager
def _in_place_of_the_body(model: Any, replay: Replay) -> Iterator[None]:
    prefix, body = model.base_model_prefix, model.base_model
    setattr(model, prefix, replay)
    try:
        yield
    finally:
        setattr(model, prefix, body)


def replayed(model: Any, hidden_PD: Tensor) -> Tensor:
    """The logits of a model's own forward over hidden states in the place of its body's.

    Args:
        model: a language model of transformers.
        hidden_PD: what its body would give, [P, D].

    Returns:
        [P, V], as the model gives them.
    """
    replay = Replay(model.base_model)
    replay.hidden_1PD = hidden_PD[None]
    ids_1P = torch.zeros(1, len(hidden_PD), dtype=torch.long, device=model.device)
    with _in_place_of_the_body(model, replay):
        logits_PV: Tensor = model(input_ids=ids_1P, use_cache=False).logits[0]
    return logits_PV
