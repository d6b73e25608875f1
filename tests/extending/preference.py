"""A task in one file: which of two answers is better, learned as a score of each that a reward model gives.

A row has a "chosen" and a "rejected" text. Each becomes an example; a model gives it one number, and the pair is right
where the chosen text's is larger.
"""

from typing import ClassVar, Literal

import numpy as np

import kdcache
from kdcache.tasks import Column, Example, Field, Labels, Measure, Reader, Score, Settings, Task, Usage, Verdict


class PreferenceSettings(Settings):
    """name: the task. max_length: the most tokens of a text; longer ones are cut."""

    name: Literal["preference"]
    max_length: int = 64


@kdcache.register_task
class Preference(Task):
    name = "preference"
    Settings = PreferenceSettings
    auto_class = "AutoModelForSequenceClassification"
    pipeline = "text-classification"
    one_position = True
    distributions = False
    exclusive = False
    record_defaults: ClassVar = {"kind": "dense", "logit_dtype": "float32"}
    measures: ClassVar = {"pairs_right": Measure("pairs right", lambda value: f"{value:.1%}")}

    def columns(self, corpus):
        return Column("chosen", "text_field"), Column("rejected", "text_field")

    def texts(self, table, corpus):
        return (text for name in ("chosen", "rejected") for text in table[name].to_pylist())

    def classes(self, teacher, found):
        return Labels(["score"])

    def reader(self, tokenizer, corpus, labels):
        return PreferenceReader(self.settings, tokenizer, labels)

    def label_fields(self, num_classes):
        return (Field("labels", "position", "int8"),)

    def checked_labels(self, labels, tokens_L, positions_P, num_classes):
        return np.asarray(labels)

    def label_faults(self, labels, num_classes):
        if not np.isin(labels, (0, 1)).all():
            yield f"labels go from {labels.min()} to {labels.max()}, expected 1 for chosen and 0 for rejected"

    def outputs(self, logits_PC):
        return logits_PC

    def teacher_outputs(self, targets):
        return targets.logits_PE

    def score(self, parts, num_classes):
        scores, labels = zip(*((part.targets().logits_PE[:, 0].numpy(), part.labels) for part in parts), strict=True)
        right = int(pairs_right(np.concatenate(scores), np.concatenate(labels)).sum())
        return Score({"labelled": sum(map(len, labels)), "right": right})

    def verdict(self, score, names, num_classes):
        share = 2 * score["right"] / score["labelled"]
        warnings = [] if share > 0.5 else [f"the teacher prefers the chosen text in {share:.1%} of the pairs alone"]
        return Verdict({"pairs_right": share}, f"{share:.1%} of the pairs right", warnings)

    def figures(self, means, predictions, names):
        right = pairs_right(predictions.outputs_PC[:, 0], predictions.labels_P)
        return {"positions": means["positions"], "pairs_right": float(right.mean())}

    def teacher_figures(self, label_nll, predictions, names):
        return self.figures({"positions": 0}, predictions(), names)

    def usage(self, longest):
        return Usage('model("an answer")', ', function_to_apply="none"')


def pairs_right(scores_P, labels_P):
    """The texts of a pair stand one after the other."""
    return scores_P[labels_P == 1] > scores_P[labels_P == 0]


class PreferenceReader(Reader):
    def __init__(self, settings, tokenizer, labels):
        self.settings, self.tokenizer, self.labels = settings, tokenizer, labels

    def examples(self, table, where):
        examples = []
        for pair in zip(table["chosen"].to_pylist(), table["rejected"].to_pylist(), strict=True):
            for text, label in zip(pair, (1, 0), strict=True):
                tokens = np.array(
                    self.tokenizer(text, truncation=True, max_length=self.settings.max_length)["input_ids"]
                )
                examples.append(Example(tokens, np.zeros(1, int), np.array([label]), np.array([len(tokens)])))
        return examples, {}
