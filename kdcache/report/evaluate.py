"""`kdcache eval`: students and teacher on a held-out cache, in one table.

The teacher's row comes from the cache: its loss from the stored logit of each label, so it is not loaded. Loss is in
nats a position; KL is of the teacher from the student at the asked temperature, on the coarsened partition where the
cache's records are sparse (a lower bound of the full one).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcache.errors import StudentError
from kdcache.progress import Progress
from kdcache.store.cache import Cache, open_cache

__all__ = ["evaluate_students", "render"]

Row = dict[str, Any]


def evaluate_students(
    students: Sequence[str],
    *,
    cache: str,
    untrained: bool = False,
    batch_examples: int = 8,
    temperature: float = 1.0,
    device: str = "auto",
) -> list[Row]:
    """Rows: the teacher, the untrained student if asked for, then each student.

    Keys: name, parameters, loss, perplexity, kl, agreement (fractions; None where not known).
    Raises StudentError for a folder that is no causal LM, does not fit the cache or has another tokenizer, CacheError
    for a bad cache.
    """
    from kdcache.train.student import check_tokenizer

    held_out = open_cache(cache)
    for folder in students:
        check_tokenizer(Path(folder), held_out)
    rows: list[Row] = []
    models = [(folder, False) for folder in students]
    if untrained:
        models.insert(0, (students[0], True))
    with Progress(len(models) * len(held_out), "examples", "eval") as progress:
        for folder, fresh in models:
            model = _load(folder, device, fresh)
            name = f"untrained {_name(folder)}" if fresh else _name(folder)
            figures = _figures(model, held_out, batch_examples, temperature, progress)
            rows.append(_row(name, sum(p.numel() for p in model.parameters()), figures))
    if "teacher_label_nll" in figures:
        rows.insert(0, _teacher_row(held_out, figures["teacher_label_nll"]))
    return rows


def _name(folder: str) -> str:
    """The run's folder for the OUTPUT/student that `kdcache train` writes, else the folder itself."""
    path = Path(folder)
    return path.parent.name if path.name == "student" and path.parent.name else path.name


def _load(folder: str, device: str, fresh: bool) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if not (Path(folder) / "config.json").is_file():
        raise StudentError(f"got student {folder}, expected a folder with config.json and model.safetensors")
    try:
        if fresh:
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        raise StudentError(f"the student {folder} does not load: {' '.join(str(error).split())}") from None
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval()


def _figures(
    model: Any, held_out: Cache, batch_examples: int, temperature: float, progress: Progress
) -> dict[str, float]:
    from kdcache.train.evaluate import evaluate_model

    return evaluate_model(
        model, held_out, batch_examples=batch_examples, temperature=temperature, progress=progress.advance
    )


def _row(name: str, parameters: int | None, figures: dict[str, float]) -> Row:
    return {
        "name": name,
        "parameters": parameters,
        "loss": figures["label_nll"],
        "perplexity": figures["perplexity"],
        "kl": figures.get("kl"),
        "agreement": figures.get("agreement"),
    }


def _teacher_row(held_out: Cache, loss: float) -> Row:
    pin = held_out.manifest.header.teacher
    return {
        "name": f"teacher {pin.name}" if pin else "teacher",
        "parameters": pin.parameters if pin else None,
        "loss": loss,
        "perplexity": math.exp(loss),
        "kl": 0.0,
        "agreement": 1.0,
    }


def render(rows: Sequence[Row]) -> str:
    """The table, for a terminal."""
    header = ("", "parameters", "held-out loss", "perplexity", "KL to teacher", "top-1 agreement")
    lines = [header] + [
        (
            row["name"],
            "" if row["parameters"] is None else f"{row['parameters'] / 1e6:,.1f} M",
            f"{row['loss']:.3f}",
            f"{row['perplexity']:,.1f}",
            "" if row["kl"] is None else f"{row['kl']:.3f}",
            "" if row["agreement"] is None else f"{row['agreement']:.1%}",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in ([*zip(line, widths, strict=True)] for line in lines)
    )
