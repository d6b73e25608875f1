"""Which module of a model is its head, how wide it is, and what it reads: told from names, without running anything."""

from typing import Any

from torch import nn

__all__ = ["HEADS", "head_module", "is_language_model", "output_layer_of", "reads_last_token", "width_of"]

HEADS = ("classifier", "score")
"""What transformers call the last layers of classifiers."""


def is_language_model(model: Any) -> bool:
    """Whether it has a head over a vocabulary; classifiers have none."""
    return model.get_output_embeddings() is not None


def reads_last_token(model: Any) -> bool:
    """Whether a sequence classifier takes its row of logits from the last token, as decoders' heads called score do."""
    return hasattr(model, "score")


def head_module(model: Any) -> nn.Module | None:
    """The output layer of a language model, or the last layers of a classifier, where they have a usual name."""
    heads = (model.get_output_embeddings(), *(getattr(model, name, None) for name in HEADS))
    return next((head for head in heads if isinstance(head, nn.Module)), None)


def width_of(model: Any) -> int:
    """How many numbers a model's head is fed with at a position."""
    head = head_module(model)
    return int(head.in_features if isinstance(head, nn.Linear) else model.config.hidden_size)


def output_layer_of(model: Any) -> nn.Module | None:
    """The layer that gives a model's logits: of a classifier the last linear one with as many outputs as classes."""
    layer: nn.Module | None = model.get_output_embeddings()
    head = head_module(model)
    if layer is not None or head is None:
        return layer
    linear = [m for m in head.modules() if isinstance(m, nn.Linear) and m.out_features == model.config.num_labels]
    return linear[-1] if linear else None
