"""The model of a task: its Auto class of transformers, and loading one whole, a teacher as a student."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["AUTO_CLASSES", "auto_class", "load_whole"]

AUTO_CLASSES = {
    "causal_lm": "AutoModelForCausalLM",
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
}


def auto_class(task: str) -> Any:
    """The Auto class of transformers for a task."""
    import transformers

    return getattr(transformers, AUTO_CLASSES[task])


def load_whole(model_class: Any, folder: str | Path, new: Sequence[str] = (), **settings: Any) -> Any:
    """from_pretrained of a local folder that fills no missing weight at random: ValueError names it instead.

    new: parts of names of weights that may be missing, as an encoder has no head yet. settings: of from_pretrained.
    """
    settings = {"use_safetensors": True, "local_files_only": True, **settings}
    model, report = model_class.from_pretrained(folder, output_loading_info=True, **settings)
    missing = sorted({*report["missing_keys"]} - {*(model.all_tied_weights_keys or ())})
    missing = [name for name in missing if not any(part in name for part in new)]
    if missing:
        raise ValueError(
            f"it lacks {len(missing)} of the weights of {type(model).__name__}, the first {missing[0]}; expected a "
            "whole model, trained for this task"
        )
    return model
