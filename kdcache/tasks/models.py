"""The model of a task: its Auto class of transformers, loading one whole, and trying a classifier out.

B examples, L tokens, C classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from kdcache.tasks.inputs import model_inputs, takes_types
from kdcache.tasks.modes import evaluating

__all__ = [
    "ADAPTER",
    "AUTO_CLASSES",
    "HEADS",
    "auto_class",
    "check_classifier",
    "classifier_head",
    "inputs_of",
    "load_whole",
    "outputs_of",
    "reads_last_token",
]

AUTO_CLASSES = {
    "causal_lm": "AutoModelForCausalLM",
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
}
HEADS = ("classifier", "score")
"""What transformers call the last layers of classifiers."""
ADAPTER = "adapter_config.json"


def auto_class(task: str) -> Any:
    """The Auto class of transformers for a task."""
    import transformers

    return getattr(transformers, AUTO_CLASSES[task])


def load_whole(model_class: Any, folder: str | Path, *, new_head: bool = False, **settings: Any) -> Any:
    """from_pretrained of a local folder that fills no missing weight at random: ValueError names it instead.

    So it does for a weight of another shape, for a damaged file, and for a folder of a PEFT adapter, whose base model
    transformers would load alone where peft is not installed.

    new_head: weights outside the body may be missing, and its pooler's, as an encoder has no head yet. settings: of
    from_pretrained.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if (Path(folder) / ADAPTER).is_file():
        raise ValueError(
            f"it holds a PEFT adapter ({ADAPTER}), expected a whole model: load it with peft, merge_and_unload() and "
            "save_pretrained() into another folder"
        )
    settings = {"use_safetensors": True, "local_files_only": True, "ignore_mismatched_sizes": True, **settings}
    try:
        model, report = model_class.from_pretrained(folder, output_loading_info=True, **settings)
    except SafetensorError as error:
        raise ValueError(f"its weights are damaged ({error}); expected whole safetensors files") from None
    for name, found, wanted in sorted(report["mismatched_keys"]):
        raise ValueError(
            f"its weight {name} is of shape {[*found]}, expected {[*wanted]} as its config.json says; the weights are "
            "of another config"
        )
    missing = sorted({*report["missing_keys"]} - {*(model.all_tied_weights_keys or ())})
    if new_head:
        body = f"{model.base_model_prefix}."
        missing = [name for name in missing if name.startswith(body) and ".pooler." not in name]
    if missing:
        raise ValueError(
            f"it lacks {len(missing)} of the weights of {type(model).__name__}, the first {missing[0]}; expected a "
            "whole model, trained for this task"
        )
    return model


@torch.no_grad()
def check_classifier(model: Any, task: str, num_classes: int, vocab_size: int) -> None:
    """Two short rows of unequal length through a classifier. Raises ValueError, in one line, for what it cannot be.

    vocab_size: of the tokenizer, whose ids all need an embedding.
    """
    embeddings = getattr(model.get_input_embeddings(), "num_embeddings", vocab_size)
    if embeddings < vocab_size:
        raise ValueError(f"it has embeddings of {embeddings} tokens, expected the {vocab_size} of the tokenizer")
    tokens = [np.arange(1, 1 + length) % embeddings for length in (3, 5)]
    pad = getattr(model.config, "pad_token_id", None) or 0
    types = [np.zeros_like(row) for row in tokens] if takes_types(model) else None
    inputs = model_inputs(tokens, [np.array([len(row)]) for row in tokens], "full", pad=pad, types=types)
    try:
        with evaluating(model):
            logits = model(**inputs.to(next(model.parameters()).device).arguments).logits
    except Exception as error:  # whatever a class of a user's own raises
        words = " ".join(str(error).split())[:200]
        raise ValueError(f"it cannot be run on input_ids and attention_mask: {type(error).__name__}: {words}") from None
    got, expected = [*logits.shape], [2, num_classes] if task == "sequence_classification" else [2, 5, num_classes]
    if got != expected:
        raise ValueError(f"it gives logits {got} for two rows of up to 5 tokens, expected {expected} for {task}")


def reads_last_token(model: Any) -> bool:
    """Whether a sequence classifier takes its row of logits from the last token, as decoders' heads called score do."""
    return hasattr(model, "score")


def classifier_head(model: Any) -> nn.Module | None:
    """The last layers of a classifier, where they have a usual name."""
    heads = (getattr(model, name, None) for name in HEADS)
    return next((head for head in heads if isinstance(head, nn.Module)), None)


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """What a module is called with while this lasts, call by call."""
    seen: list[Tensor] = []
    with module.register_forward_pre_hook(
        lambda _, given, named: seen.append(given[0] if given else next(iter(named.values()))), with_kwargs=True
    ):
        yield seen


@contextmanager
def outputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """The first of what a module gives while this lasts, call by call."""
    seen: list[Tensor] = []
    with module.register_forward_hook(lambda _, given, output: seen.append(output[0])):
        yield seen
