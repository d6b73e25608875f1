"""The model of a task: its Auto class of transformers, loading one whole, and trying a classifier out.

B examples, L tokens, C classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from kdcache.errors import one_line
from kdcache.models.feeding import Feeding
from kdcache.models.modes import evaluating
from kdcache.models.strangers import check_model_files
from kdcache.tasks import Example, Task

__all__ = [
    "auto_class",
    "check_classifier",
    "find_last_by_mask",
    "load_whole",
]


def auto_class(task: Task | type[Task]) -> Any:
    """The Auto class of transformers for a task."""
    import transformers

    return getattr(transformers, task.auto_class)


def load_whole(
    model_class: Any,
    folder: str | Path,
    *,
    new_head: bool = False,
    trust_remote_code: bool = False,
    **settings: Any,
) -> Any:
    """from_pretrained of a local folder that fills no missing weight at random: ValueError names it instead.

    So it does for a weight of another shape, for a damaged file, and for what a stranger's folder may hold
    (kdcache.models.strangers), such as a PEFT adapter, whose base model transformers would load alone where peft is not
    installed. The model's own code runs only with trust_remote_code, which nothing asks for.

    new_head: weights outside the body may be missing, and its pooler's, as an encoder has no head yet. settings: of
    from_pretrained.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    check_model_files(folder, trust_remote_code=trust_remote_code)
    settings = {"use_safetensors": True, "ignore_mismatched_sizes": True, **settings}
    try:
        model, report = model_class.from_pretrained(
            folder,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
            local_files_only=not trust_remote_code,
            **settings,
        )
    except SafetensorError as error:
        raise ValueError(f"its weights are damaged ({error}); expected whole safetensors files") from None
    except (OSError, ValueError, ImportError):
        raise
    except Exception as error:  # transformers raises a dozen classes for a broken folder
        raise ValueError(f"{type(error).__name__}: {one_line(error, 300)}") from error
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
def check_classifier(
    model: Any, task: Task, num_classes: int, vocab_size: int, feeding: Feeding, examples: Sequence[Example]
) -> None:
    """One of the run's own examples through a classifier. Raises ValueError, in one line, for what it cannot be.

    vocab_size: of the tokenizer, whose ids all need an embedding. Nothing is run without an example.
    """
    embeddings = getattr(model.get_input_embeddings(), "num_embeddings", vocab_size)
    if embeddings < vocab_size:
        raise ValueError(f"it has embeddings of {embeddings} tokens, expected the {vocab_size} of the tokenizer")
    for inputs, _ in feeding.passes(examples[:1]) if examples else ():
        try:
            with evaluating(model):
                logits = model(**inputs.to(next(model.parameters()).device).arguments).logits
        except Exception as error:  # whatever a class of a user's own raises
            words = one_line(error, 200)
            raise ValueError(
                f"it cannot be run on input_ids and attention_mask: {type(error).__name__}: {words}"
            ) from None
        length = inputs.arguments["input_ids"].shape[1]
        expected = task.logits_shape(length, num_classes)
        if [*logits.shape] != expected:
            raise ValueError(
                f"it gives logits {[*logits.shape]} for an example of {length} tokens, expected {expected} for "
                f"{task.name}"
            )


def find_last_by_mask(model: Any) -> None:
    """Let such a head, of a model that names no padding token, find the last token by the attention mask.

    Transformers' heads look for padding among the tokens, and a token of the text may be the one that pads. So the
    config names what stands under the mask of each call, and where nothing does, no token.
    """
    model.config.pad_token_id = -1

    def name_padding(_: nn.Module, __: Any, given: dict[str, Any]) -> None:
        padding = given["input_ids"][given["attention_mask"] == 0]
        model.config.pad_token_id = int(padding[0]) if len(padding) else -1

    model.register_forward_pre_hook(name_padding, with_kwargs=True)
