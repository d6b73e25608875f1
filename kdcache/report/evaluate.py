"""`kdcache eval`: students and teacher on a held-out cache, in one table.

The teacher's row comes from the cache, so the teacher is not loaded: a language model's loss comes from the stored
logit of each label, a classifier's scores from the dense records. Loss is in nats per position. KL is that of the
teacher from the student at the asked temperature; where the cache's records are sparse it is taken on the certain
classes and all others as one, which is a lower bound.

For classifications the table also says what a model costs: its parameters, the size of its files, the median time of
one example, and the examples per second in batches, on this machine. To measure the teacher's too, give its folder.
"""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache.errors import CacheError, ConfigError, StudentError, TeacherError, one_line, printable
from kdcache.progress import Progress, say
from kdcache.store.cache import Cache, open_cache
from kdcache.store.lineage import lineage
from kdcache.tasks import Task, task_of
from kdcache.tasks.measures import Measure

if TYPE_CHECKING:
    from kdcache.tasks.metrics import Predictions

__all__ = ["aligned", "cautions", "columns_of", "evaluate_students", "render", "render_classes"]

Row = dict[str, Any]

ALONE, WARM_UP = 20, 3
"""Examples timed one by one, and before them without a clock."""


def evaluate_students(
    students: Sequence[str],
    *,
    cache: str,
    untrained: bool = False,
    batch_examples: int = 8,
    temperature: float = 1.0,
    device: str = "auto",
    teacher: str | None = None,
    trust_remote_code: bool = False,
) -> list[Row]:
    """Rows: the teacher, the untrained student if asked for, then each student.

    Keys: name, parameters, label_nll, kl, agreement (fractions; None where not known), and perplexity of a language
    model, or of a classification bytes, accuracy, macro_f1, ece, entity_f1 (of tags), milliseconds,
    examples_per_second, and classes: precision, recall, f1 and support of each class or type of entity.
    students: folders or names on the hub. teacher: its folder or name, to time it. trust_remote_code: whether code
    that comes with these models may run.
    Raises ConfigError for device "cuda" without a GPU, ConfigError or TeacherError for a teacher that is not the
    cache's, StudentError for a folder that is no model of this task, does not fit, has another tokenizer or says what
    is no number, CacheError for a bad cache and one without a supervised position.
    """
    from kdcache.launcher import find_device
    from kdcache.models.hub import model_folder
    from kdcache.models.registry import register_small_models
    from kdcache.students.same_tokenizer import check_tokenizer

    register_small_models()
    device = find_device(device, "--device")
    held_out = open_cache(cache)
    if held_out.num_positions == 0:
        raise CacheError(
            f"{cache} has no supervised position in its {len(held_out)} examples, expected some to score on"
        )
    say(f"cache: {cache}, sha256 {held_out.digest}")
    if teacher is not None:
        teacher = str(model_folder(teacher, what="teacher", error=TeacherError, trust_remote_code=trust_remote_code))
        _check_teacher(teacher, held_out)
    folders = [
        str(model_folder(student, what="student", error=StudentError, trust_remote_code=trust_remote_code))
        for student in students
    ]
    for folder in folders:
        check_tokenizer(Path(folder), held_out)
        for caution in cautions(Path(folder), held_out):
            say(f"warning: {caution}")
    rows: list[Row] = []
    models = [(_name(student), folder, False) for student, folder in zip(students, folders, strict=True)]
    if untrained:
        models.insert(0, (f"untrained {models[0][0]}", folders[0], True))
    with Progress(len(models) * len(held_out), "examples", "eval") as progress:
        for name, folder, fresh in models:
            model = _load(folder, device, fresh, held_out, trust_remote_code)
            figures, predictions = _figures(model, held_out, batch_examples, temperature, progress)
            rows.append(_row(name, held_out, figures, predictions) | _cost(model, folder, held_out, batch_examples))
    of_teacher = _teacher_row(held_out, figures.get("teacher_label_nll"))
    if of_teacher is not None:
        if teacher is not None:
            timed = not _reads_other_tokens(held_out)
            if not timed:
                say(f"the teacher {teacher} is not timed: {cache} holds other tokens than it reads")
            loaded = _load(teacher, device, False, held_out, trust_remote_code)
            of_teacher |= _cost(loaded, teacher, held_out, batch_examples, timed=timed)
        rows.insert(0, of_teacher)
    return rows


def _check_teacher(folder: str, held_out: Cache) -> None:
    """Raises ConfigError for a cache without a teacher's records, TeacherError for another teacher than theirs."""
    from kdcache.dump.teacher_files import weights_digest

    header = held_out.manifest.header
    if header.distribution is None:
        raise ConfigError(
            f"got a teacher to time and {held_out.root.url}, which holds labels only; expected records of it"
        )
    if header.teacher and header.teacher.weights_sha256 not in (None, weights_digest(folder)):
        raise TeacherError(
            f"the teacher {folder} is not {header.teacher.name}, whose records {held_out.root.url} holds"
        )


def cautions(folder: Path, held_out: Cache) -> Iterator[str]:
    """What the card that `kdcache train` wrote says against these figures; other folders have none."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    if "Trained by kdcache" not in text:
        return
    header, origin = held_out.manifest.header, lineage(held_out)
    if held_out.digest in text:
        yield f"{folder} was trained on the cache {held_out.root.url} itself: its figures are of text it has seen"
    elif any(digest in text for digest in origin.caches):
        yield f"{folder} was trained on what {held_out.root.url} was made of: its figures may be of text it has seen"
    elif any(digest in text for digest in origin.corpora):
        yield f"{folder} was trained on the corpus of {held_out.root.url}: its figures may be of text it has seen"
    pin = header.teacher
    if pin and pin.weights_sha256 and "| teacher weights | `" in text and pin.weights_sha256 not in text:
        yield f"{folder} had another teacher than {held_out.root.url} ({pin.name}): KL and agreement are with that one"


def _reads_other_tokens(held_out: Cache) -> bool:
    """Whether what the teacher read is not in the cache."""
    pin = held_out.manifest.header.teacher
    return pin is not None and pin.reads_its_own


def _name(folder: str) -> str:
    """The run's folder for the OUTPUT/student that `kdcache train` writes, else the folder itself."""
    path = Path(folder)
    return path.parent.name if path.name == "student" and path.parent.name else path.name


def _load(folder: str, device: str, fresh: bool, held_out: Cache, trust_remote_code: bool) -> Any:
    import torch

    from kdcache.models.loading import auto_class, load_whole
    from kdcache.models.strangers import ADAPTER, model_config

    if not any((Path(folder) / name).is_file() for name in ("config.json", ADAPTER)):
        raise StudentError(f"got student {folder}, expected a folder with config.json and model.safetensors")
    model_class = auto_class(_task(held_out))
    try:
        if fresh:
            torch.manual_seed(0)
            config = model_config(folder, trust_remote_code=trust_remote_code)
            model = model_class.from_config(config, trust_remote_code=trust_remote_code, dtype=torch.float32)
        else:
            model = load_whole(model_class, Path(folder), dtype=torch.float32, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises a dozen classes for a broken folder
        words = one_line(error, 300)
        raise StudentError(f"the model {folder} does not load: {type(error).__name__}: {words}") from None
    return model.to(device).eval()


def _figures(
    model: Any, held_out: Cache, batch_examples: int, temperature: float, progress: Progress
) -> "tuple[dict[str, float], Predictions | None]":
    from kdcache.students.scoring import evaluate_whole

    return evaluate_whole(
        model, held_out, batch_examples=batch_examples, temperature=temperature, progress=progress.advance
    )


def _task(held_out: Cache) -> Task:
    return task_of(held_out.manifest.header.task)


def _row(name: str, held_out: Cache, figures: dict[str, float], predictions: "Predictions | None") -> Row:
    task, names = _task(held_out), held_out.manifest.header.class_names
    row: Row = {
        "name": name,
        "label_nll": figures.get("label_nll"),
        "kl": figures.get("kl"),
        "agreement": figures.get("agreement"),
    }
    row |= {key: figures.get(key) for key in task.measures if key not in row}
    return row if predictions is None else row | {"classes": task.class_table(predictions, names)}


def _cost(model: Any, folder: str, held_out: Cache, batch_examples: int, *, timed: bool = True) -> Row:
    """Parameters, and of a classifier the size of its weights on disk and, where timed, its speed."""
    cost: Row = {"parameters": sum(p.numel() for p in model.parameters())}
    if _task(held_out).generates:
        return cost
    cost["bytes"] = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    if not timed:
        return cost
    alone = [_seconds(model, held_out, i, i + 1) for i in range(min(len(held_out), WARM_UP + ALONE))]
    start = 0
    seconds: list[float] = []
    while start < len(held_out) and len(seconds) < WARM_UP + ALONE:
        stop = min(start + batch_examples, len(held_out))
        seconds.append(_seconds(model, held_out, start, stop) / (stop - start))
        start = stop
    return cost | {
        "milliseconds": 1e3 * statistics.median(alone[WARM_UP:] or alone),
        "examples_per_second": 1 / statistics.median(seconds[WARM_UP:] or seconds),
    }


def _seconds(model: Any, held_out: Cache, start: int, stop: int) -> float:
    """One forward pass on these examples."""
    import torch

    from kdcache.students.collate import Collator

    device = next(model.parameters()).device
    inputs = Collator(model, held_out)(held_out.read(start, stop)).to(device)
    with torch.inference_mode():
        started = time.perf_counter()
        model(**inputs.model.arguments)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _teacher_row(held_out: Cache, label_nll: float | None) -> Row | None:
    from kdcache.students.scoring import teacher_predictions

    header = held_out.manifest.header
    if header.distribution is None:
        return None
    figures = _task(held_out).teacher_figures(label_nll, lambda: teacher_predictions(held_out), header.class_names)
    if figures is None:
        return None
    pin = header.teacher
    name = f"teacher {pin.name}" if pin else "teacher"
    return {"name": name, "parameters": pin.parameters if pin else None, **figures}


BEFORE = {
    "parameters": Measure("parameters", lambda v: f"{v / 1e6:,.2f} M" if v < 1e7 else f"{v / 1e6:,.1f} M"),
    "bytes": Measure("size", lambda v: f"{v / 1e6:,.1f} MB"),
}
AFTER = {
    "milliseconds": Measure("ms per example", lambda v: f"{v:.2f}"),
    "examples_per_second": Measure("examples/s", lambda v: f"{v:,.0f}"),
}


def columns_of(cache: str) -> dict[str, Measure]:
    """The columns of the table for a cache's task, in order."""
    return {**BEFORE, **_task(open_cache(cache)).measures, **AFTER}


def render_classes(rows: Sequence[Row]) -> str:
    """The table of each row's classes, for a terminal. Raises ConfigError where there are none."""
    lines = [["", "precision", "recall", "F1", "support"]]
    for row in rows:
        for one in row.get("classes") or ():
            scores = [f"{one[key]:.1%}" for key in ("precision", "recall", "f1")]
            lines.append([f"{row['name']}: {one['name']}", *scores, f"{one['support']:,}"])
    if len(lines) == 1:
        raise ConfigError("got --per-class and a cache without labels of classes, expected one of a classification")
    return aligned(lines)


def render(rows: Sequence[Row], columns: Mapping[str, Measure]) -> str:
    """The table, for a terminal; columns that no row has are left out."""
    shown = {key: column for key, column in columns.items() if any(row.get(key) is not None for row in rows)}
    lines = [["", *(column.title for column in shown.values())]] + [
        [row["name"], *("" if row.get(key) is None else column.spoken(row[key]) for key, column in shown.items())]
        for row in rows
    ]
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns, the first to the left and the others to the right."""
    lines = [[printable(cell) for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in ([*zip(line, widths, strict=True)] for line in lines)
    )
