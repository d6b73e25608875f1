"""Regression: one or several scores for each text or pair of texts.

The teacher's raw outputs are recorded as they are, in float32. A student learns them, or the labels, by squared_error,
or their direction by cosine; there is no distribution, so no cross-entropy and no divergence. Labels are float32,
[P, C], NaN where a score is not known.

P positions, C scores.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field as Limits

from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import CacheError, CorpusError, RowError, TeacherError
from kdcache.targets.fields import Field
from kdcache.tasks.labels import Labels, teacher_labels
from kdcache.tasks.measures import Measure
from kdcache.tasks.metrics import Predictions
from kdcache.tasks.score import Records, Score, Verdict
from kdcache.tasks.task import Where
from kdcache.tasks.texts import TextReader, TextSettings, TextTask

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from kdcache.targets.record import TeacherTargets

__all__ = ["Regression", "RegressionConfig", "ScoreReader"]

SPREAD = 240.0
"""How far the outputs of a position may lie apart: a dense record keeps them relative to the largest."""
MILLION = 1_000_000


class RegressionConfig(TextSettings):
    """Scores for a text, or for a pair of texts (corpus.text_pair_field).

    The corpus has a number in label_field, or a list of them; null and NaN say that nobody knows.

    name: the task.
    labels: names of the scores, in the order of the teacher's outputs. By default those of the teacher, "score" for one
        output, else "0", "1", ….
    """

    name: Literal["regression"]
    labels: Annotated[tuple[str, ...], Limits(min_length=1)] | None = None


class Regression(TextTask):
    """The task `regression`: scores for each text or pair of texts."""

    settings: RegressionConfig
    name = "regression"
    Settings: ClassVar = RegressionConfig
    problem_type = "regression"
    distributions = False
    exclusive = False
    record_defaults: ClassVar[Mapping[str, Any]] = {"kind": "dense", "logit_dtype": "float32"}
    pipeline_arguments = ', function_to_apply="none"'
    label_kind = "numbers"
    measures: ClassVar[Mapping[str, Measure]] = {
        "mse": Measure("MSE", lambda value: f"{value:.4g}"),
        "mae": Measure("MAE", lambda value: f"{value:.4g}"),
        "pearson": Measure("Pearson", lambda value: f"{value:.3f}"),
        "spearman": Measure("Spearman", lambda value: f"{value:.3f}"),
    }

    def label_names(self, table: "pa.Table", corpus: CorpusConfig) -> list[str | None]:
        """How many numbers each label has."""
        rows = [] if corpus.label_field is None else table[corpus.label_field].to_pylist()
        return [str(len(row)) for row in rows if row is not None]

    @property
    def finds_classes(self) -> bool:
        return self.settings.labels is None

    def classes(self, teacher: Any | None, found: Callable[[], set[str | None]]) -> Labels:
        given = self.settings.labels
        if teacher is not None:
            labels = teacher_labels(teacher, given)
            return Labels(["score"]) if given is None and labels.names == ("0",) else labels
        if given is not None:
            return Labels(given)
        counts = sorted(int(count or 0) for count in found())
        if len(counts) != 1:
            got = "none" if not counts else f"{counts[0]} to {counts[-1]} of them"
            raise CorpusError(
                f"got {got} as scores in the rows of the corpus, expected as many in each where there is no teacher: "
                "see corpus.label_field"
            )
        return Labels(["score"] if counts[0] == 1 else [*map(str, range(counts[0]))])

    def reader(self, tokenizer: Any, corpus: CorpusConfig, labels: Labels | None) -> "ScoreReader":
        assert labels is not None
        return ScoreReader(self.settings, tokenizer, corpus, labels)

    def label_fields(self, num_classes: int) -> tuple[Field, ...]:
        return (Field("labels", "position", "float32", (num_classes,)),)

    def checked_labels(
        self, labels: Any, tokens_L: np.ndarray, positions_P: np.ndarray, num_classes: int
    ) -> np.ndarray:
        if labels is None:
            raise CacheError(f"got no labels, expected scores for each position of task {self.name}, NaN for none")
        labels_PC = np.asarray(labels.cpu() if hasattr(labels, "cpu") else labels, np.float32)
        if labels_PC.size != len(positions_P) * num_classes:
            raise CacheError(f"got labels {[*labels_PC.shape]}, expected {[len(positions_P), num_classes]}")
        for fault in self.label_faults(labels_PC, num_classes):
            raise CacheError(f"got an example whose {fault}")
        return labels_PC.reshape(-1, num_classes)

    def label_faults(self, labels: np.ndarray, num_classes: int) -> Iterator[str]:
        if np.isinf(labels).any():
            yield "labels hold infinity, expected numbers, or NaN where there is none"

    def check_outputs(self, outputs_PC: "Tensor") -> None:
        spread = float((outputs_PC.amax(-1) - outputs_PC.amin(-1)).amax()) if outputs_PC.numel() else 0.0
        if spread >= SPREAD:
            raise TeacherError(
                f"got a teacher whose scores of one text lie {spread:.4g} apart, expected less than {SPREAD:g}, which "
                "a record holds: scale them alike, or record them one by one"
            )

    def outputs(self, logits_PC: "Tensor") -> "Tensor":
        """The scores themselves."""
        return logits_PC

    def teacher_outputs(self, targets: "TeacherTargets") -> "Tensor":
        return targets.logits_PE

    def mean_of_teachers(self, outputs_KPC: "Tensor", shares_K: Sequence[float]) -> "Tensor":
        """The weighted mean of the scores."""
        return (outputs_KPC * outputs_KPC.new_tensor(shares_K)[:, None, None]).sum(0)

    def score(self, parts: Iterable[Records], num_classes: int) -> Score | None:
        """labelled, and for each score the sums that its errors and its spread are made of, in millionths."""
        sums: dict[str, dict[str, int]] = {str(c): {} for c in range(num_classes)}
        labelled = 0
        for part in parts:
            outputs_PC, labels_PC = part.targets().logits_PE.double().numpy(), part.labels.astype(np.float64)
            labelled += int((~np.isnan(labels_PC)).any(1).sum())
            for c, its in enumerate(sums.values()):
                known_P = ~np.isnan(labels_PC[:, c])
                x_P, y_P = outputs_PC[known_P, c], labels_PC[known_P, c]
                its["known"] = its.get("known", 0) + int(known_P.sum())
                of_part = {"label": y_P, "label_squared": y_P**2, "squared_error": (x_P - y_P) ** 2}
                for name, values_P in of_part.items():
                    its[name] = its.get(name, 0) + round(float(values_P.sum()) * MILLION)
        return Score({"labelled": labelled, "sums": sums}) if labelled else None

    def verdict(self, score: Score, names: Sequence[str], num_classes: int) -> Verdict:
        known = [its for its in score["sums"].values() if its["known"]]
        errors = [its["squared_error"] / its["known"] / MILLION for its in known]
        spreads = [
            its["label_squared"] / its["known"] / MILLION - (its["label"] / its["known"] / MILLION) ** 2
            for its in known
        ]
        mse, spread = sum(errors) / len(errors), sum(spreads) / len(spreads)
        figures = {"positions": score["labelled"], "mse": mse, "variance": spread}
        line = f"MSE {mse:.4g} on {score['labelled']:,} labelled (their mean alone: {spread:.4g})"
        warnings = []
        if mse >= spread:
            warnings.append(
                f"the teacher's squared error on {score['labelled']:,} labels, {mse:.4g}, is no better than "
                f"{spread:.4g}, that of their mean: look at its tokenizer, and at the order and scale of the scores"
            )
        return Verdict(figures, line, warnings)

    def figures(
        self, means: Mapping[str, float], predictions: Predictions | None, names: Sequence[str]
    ) -> dict[str, float]:
        assert predictions is not None
        return {key: means[key] for key in ("positions",) if key in means} | _scores(predictions)

    def teacher_figures(
        self, label_nll: float | None, predictions: Callable[[], Predictions], names: Sequence[str]
    ) -> dict[str, Any]:
        return _scores(predictions())


def _scores(predictions: Predictions) -> dict[str, float]:
    """The mean over scores of each measure, over the positions where the score is known."""
    import torch
    from torchmetrics import functional as of

    of_each: dict[str, list[float]] = {"mse": [], "mae": [], "pearson": [], "spearman": []}
    for outputs_P, labels_P in zip(predictions.outputs_PC.T, predictions.labels_P.T, strict=True):
        known_P = ~np.isnan(labels_P)
        x_P, y_P = (torch.from_numpy(values_P[known_P].astype(np.float64)) for values_P in (outputs_P, labels_P))
        if not len(y_P):
            continue
        of_each["mse"].append(float(of.mean_squared_error(x_P, y_P)))
        of_each["mae"].append(float(of.mean_absolute_error(x_P, y_P)))
        if len(y_P) > 1 and x_P.std() > 0 and y_P.std() > 0:
            of_each["pearson"].append(float(of.pearson_corrcoef(x_P, y_P)))
            of_each["spearman"].append(float(of.spearman_corrcoef(x_P, y_P)))
    return {name: sum(values) / len(values) for name, values in of_each.items() if values}


class ScoreReader(TextReader):
    """Texts with scores. Notes: "unlabelled" texts."""

    labels: Labels

    def __init__(self, settings: RegressionConfig, tokenizer: Any, corpus: CorpusConfig, labels: Labels) -> None:
        super().__init__(settings, tokenizer, corpus)
        self.labels = labels

    def row_labels(self, values: Sequence[list[float] | None], where: Where) -> list[np.ndarray]:
        C = len(self.labels)
        for row, scores in enumerate(values):
            if scores is not None and len(scores) != C:
                raise RowError(where, row, f": got {len(scores)} scores, expected {C}: {', '.join(self.labels.names)}")
        return [np.array([np.nan] * C if scores is None else scores, np.float32) for scores in values]

    def counts(self, labels: Sequence[np.ndarray]) -> dict[str, int]:
        return {"unlabelled": sum(bool(np.isnan(label).all()) for label in labels)}
