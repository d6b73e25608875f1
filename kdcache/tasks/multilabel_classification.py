"""Multi-label classification: any number of classes for each text, each an independent yes or no.

A class is a Bernoulli distribution: the softmax over (its logit, 0). So a position of C classes is C rows of two
classes, and every divergence, temperature and weighting of the losses applies to them as it is, summed over the classes
of a position; the cross-entropy of these rows is binary cross-entropy. Labels are stored as [P, C]: 1, 0, or NO_LABEL
in the whole row of a text without labels.

P positions, C classes.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import CacheError
from kdcache.targets.fields import NO_LABEL, Field
from kdcache.tasks.classification import Classification
from kdcache.tasks.labels import Labels
from kdcache.tasks.measures import AGREEMENT, KL, LABEL_NLL, Measure, percent
from kdcache.tasks.metrics import CALIBRATION_BINS, Predictions, class_row
from kdcache.tasks.score import MOST_NATS, Records, Score, Verdict
from kdcache.tasks.settings import ClassSettings
from kdcache.tasks.task import Task, Where
from kdcache.tasks.texts import TextReader, TextSettings, TextTask

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from kdcache.targets.record import TeacherTargets

__all__ = ["LabelSetReader", "MultilabelClassification", "MultilabelConfig"]


class MultilabelConfig(TextSettings, ClassSettings):
    """Any number of classes for a text, or for a pair of texts (corpus.text_pair_field).

    The corpus has a list of their names in label_field; an empty list says that none applies, null that nobody knows.

    name: the task.
    """

    name: Literal["multilabel_classification"]


class MultilabelClassification(TextTask, Classification):
    """The task `multilabel_classification`: a yes or no for each class of a text."""

    settings: MultilabelConfig
    name = "multilabel_classification"
    Settings: ClassVar = MultilabelConfig
    problem_type = "multi_label_classification"
    pipeline_arguments = ", top_k=None"
    label_kind = "labels"
    exclusive = False
    measures: ClassVar[Mapping[str, Measure]] = {
        "micro_f1": Measure("micro-F1", percent),
        "macro_f1": Measure("macro-F1", percent),
        "mean_average_precision": Measure("mAP", percent),
        "subset_accuracy": Measure("all right", percent),
        "ece": Measure("ECE", lambda value: f"{value:.3f}"),
        "label_nll": LABEL_NLL,
        "kl": KL,
        "agreement": AGREEMENT,
    }

    def label_names(self, table: "pa.Table", corpus: CorpusConfig) -> list[str | None]:
        rows = [] if corpus.label_field is None else table[corpus.label_field].to_pylist()
        return [name for row in rows for name in row or []]

    def reader(self, tokenizer: Any, corpus: CorpusConfig, labels: Labels | None) -> "LabelSetReader":
        assert labels is not None
        return LabelSetReader(self.settings, tokenizer, corpus, labels)

    def label_fields(self, num_classes: int) -> tuple[Field, ...]:
        return (Field("labels", "position", "int8", (num_classes,)),)

    def checked_labels(
        self, labels: Any, tokens_L: np.ndarray, positions_P: np.ndarray, num_classes: int
    ) -> np.ndarray:
        if labels is None:
            raise CacheError(f"got no labels, expected a row of them for each position of task {self.name}")
        labels_PC = np.asarray(labels.cpu() if hasattr(labels, "cpu") else labels)
        if labels_PC.shape != (len(positions_P), num_classes):
            raise CacheError(f"got labels {[*labels_PC.shape]}, expected {[len(positions_P), num_classes]}")
        for fault in self.label_faults(labels_PC, num_classes):
            raise CacheError(f"got an example whose {fault}")
        return labels_PC.astype(np.int64)

    def label_faults(self, labels: np.ndarray, num_classes: int) -> Iterator[str]:
        unknown_PC = labels == NO_LABEL
        if not (unknown_PC | (labels == 0) | (labels == 1)).all():
            yield f"labels go from {labels.min()} to {labels.max()}, expected 0 and 1, or {NO_LABEL} in a whole row"
        elif (unknown_PC.any(1) != unknown_PC.all(1)).any():
            yield f"labels hold {NO_LABEL} in a part of a row, expected it in the whole row or nowhere"

    def row_classes(self, num_classes: int) -> int:
        return 2

    def rows(self, outputs_PC: "Tensor") -> "Tensor":
        import torch

        return torch.stack([outputs_PC, torch.zeros_like(outputs_PC)], -1).flatten(0, 1)

    def row_targets(self, targets: "TeacherTargets") -> "TeacherTargets":
        from kdcache.targets.decisions import decisions

        return decisions(targets)

    def row_labels(self, labels: np.ndarray) -> np.ndarray:
        """0 for yes, the first of a row's two classes, and 1 for no."""
        return np.where(labels == NO_LABEL, NO_LABEL, 1 - labels).reshape(-1)

    def outputs(self, logits_PC: "Tensor") -> "Tensor":
        """The log-probability of yes."""
        import torch

        return torch.nn.functional.logsigmoid(logits_PC)

    def teacher_outputs(self, targets: "TeacherTargets") -> "Tensor":
        return self.outputs(targets.logits_PE)

    def mean_of_teachers(self, outputs_KPC: "Tensor", shares_K: Sequence[float]) -> "Tensor":
        """Of each class the logit of yes: log p − log (1 − p), each a mean of its own, so that neither is rounded."""
        import torch

        log_shares_K11 = outputs_KPC.new_tensor(shares_K).log()[:, None, None]
        log_no_KPC = torch.log(-torch.expm1(outputs_KPC))
        return (outputs_KPC + log_shares_K11).logsumexp(0) - (log_no_KPC + log_shares_K11).logsumexp(0)

    def check_teacher(self, config: Any, num_classes: int) -> None:
        Task.check_teacher(self, config, num_classes)

    def score(self, parts: Iterable[Records], num_classes: int) -> Score | None:
        """labelled, nano_nats (binary cross-entropy) and for each class its counts of hits, false alarms and misses."""
        import torch

        loss, labelled = 0.0, 0
        counts_3C = np.zeros((3, num_classes), np.int64)
        for part in parts:
            known_P = part.labels[:, 0] != NO_LABEL
            logits_PC = part.targets().logits_PE.double()[torch.from_numpy(known_P)]
            yes_PC = part.labels[known_P] == 1
            signed_PC = torch.where(torch.from_numpy(yes_PC), logits_PC, -logits_PC)
            loss += float((-torch.nn.functional.logsigmoid(signed_PC)).clamp(max=MOST_NATS).sum())
            said_PC = logits_PC.numpy() > 0
            counts_3C += [(said_PC & yes_PC).sum(0), (said_PC & ~yes_PC).sum(0), (~said_PC & yes_PC).sum(0)]
            labelled += int(known_P.sum())
        if not labelled:
            return None
        names = ("hits", "false_alarms", "misses")
        counts = {str(c): dict(zip(names, column, strict=True)) for c, column in enumerate(counts_3C.T.tolist())}
        return Score({"labelled": labelled, "nano_nats": round(loss * 1e9), "counts": counts})

    def verdict(self, score: Score, names: Sequence[str], num_classes: int) -> Verdict:
        total, counts = score["labelled"], [*score["counts"].values()]
        loss = score["nano_nats"] / 1e9 / total
        hits, alarms, misses = (sum(count[key] for count in counts) for key in ("hits", "false_alarms", "misses"))
        chance = sum(_entropy((count["hits"] + count["misses"]) / total) for count in counts)
        micro_f1 = 2 * hits / max(2 * hits + alarms + misses, 1)
        figures = {"positions": total, "micro_f1": micro_f1, "label_nll": loss, "loss_of_shares": chance}
        line = (
            f"micro-F1 {micro_f1:.1%} of {total:,} labelled, {loss:.3f} nats (the classes' shares alone: {chance:.3f})"
        )
        warnings = []
        if loss >= chance:
            warnings.append(
                f"the teacher's loss on {total:,} labelled texts, {loss:.3f} nats, is no better than {chance:.3f}, "
                "what the share of each class alone gives: look at its tokenizer, at task.labels and their order, and "
                "at the labels of the corpus"
            )
        return Verdict(figures, line, warnings)

    def figures(
        self, means: Mapping[str, float], predictions: Predictions | None, names: Sequence[str]
    ) -> dict[str, float]:
        """Loss and KL are summed over the classes of a position."""
        assert predictions is not None
        summed = ("label_nll", "teacher_label_nll", "kl")
        counted = ("positions", "labelled")
        figures = {
            key: value * len(names) if key in summed else value / len(names) if key in counted else value
            for key, value in means.items()
        }
        return figures | self._scores(predictions, names)

    def class_table(self, predictions: Predictions, names: Sequence[str]) -> list[dict[str, Any]]:
        known = _known(predictions)
        if known is None:
            return []
        said_PC, yes_PC = known.outputs_PC > math.log(0.5), known.labels_P == 1
        return [
            class_row(name, int((said & yes).sum()), int((said & ~yes).sum()), int((~said & yes).sum()))
            for name, said, yes in zip(names, said_PC.T, yes_PC.T, strict=True)
        ]

    def _scores(self, predictions: Predictions, names: Sequence[str]) -> dict[str, float]:
        import torch
        from torchmetrics.functional import classification as of

        known = _known(predictions)
        if known is None:
            return {}
        probs_PC, labels_PC = torch.from_numpy(known.outputs_PC).exp(), torch.from_numpy(known.labels_P)
        C, occurring = len(names), labels_PC.any(0)
        precision_C = of.multilabel_average_precision(
            probs_PC[:, occurring], labels_PC[:, occurring], int(occurring.sum()), average=None
        )
        found = {
            "micro_f1": of.multilabel_f1_score(probs_PC, labels_PC, C, average="micro"),
            "macro_f1": of.multilabel_f1_score(probs_PC, labels_PC, C, average="macro"),
            "mean_average_precision": precision_C.mean() if occurring.any() else torch.tensor(0.0),
            "subset_accuracy": of.multilabel_exact_match(probs_PC, labels_PC, C),
            "ece": of.binary_calibration_error(probs_PC.flatten(), labels_PC.flatten(), n_bins=CALIBRATION_BINS),
        }
        return {name: float(value) for name, value in found.items()}


def _known(predictions: Predictions) -> Predictions | None:
    """Those that have labels; None where none has."""
    known_P = predictions.labels_P[:, 0] != NO_LABEL
    if not known_P.any():
        return None
    return Predictions(predictions.outputs_PC[known_P], predictions.labels_P[known_P], predictions.starts_P[known_P])


def _entropy(share: float) -> float:
    return -sum(p * math.log(p) for p in (share, 1 - share) if p > 0)


class LabelSetReader(TextReader):
    """Texts with a yes or no for each class. Notes: texts of each label, "unlabelled" ones."""

    labels: Labels

    def __init__(self, settings: MultilabelConfig, tokenizer: Any, corpus: CorpusConfig, labels: Labels) -> None:
        super().__init__(settings, tokenizer, corpus)
        self.labels = labels

    def row_labels(self, values: Sequence[list[str] | None], where: Where) -> list[np.ndarray]:
        found = []
        for row, names in enumerate(values):
            label_C = np.full(len(self.labels), NO_LABEL if names is None else 0)
            label_C[[self.labels.id(name, row, where) for name in names or ()]] = 1
            found.append(label_C)
        return found

    def counts(self, labels: Sequence[np.ndarray]) -> dict[str, int]:
        labels_PC = np.array(labels).reshape(-1, len(self.labels))
        positive_C = (labels_PC == 1).sum(0).tolist()
        notes = {"unlabelled": int((labels_PC[:, 0] == NO_LABEL).sum())}
        return notes | {f"labelled {name}": n for name, n in zip(self.labels.names, positive_C, strict=True) if n}
