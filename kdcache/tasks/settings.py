"""`task`: what is asked of each row, and how it becomes examples."""

import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kdcache.config.base import Config, Name
from kdcache.config.chosen import Chosen
from kdcache.tasks.registry import TASKS

__all__ = [
    "LABEL_FIELDS",
    "CausalLMConfig",
    "ClassificationConfig",
    "SequenceClassificationConfig",
    "TaskConfig",
    "TokenClassificationConfig",
]


def _iso_date(value: object) -> object:
    if type(value) is datetime.date or value is None:
        return value
    try:
        return datetime.date.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(f"got {value}, expected a day such as 2025-01-31") from None


Day = Annotated[datetime.date, BeforeValidator(_iso_date)]


class CausalLMConfig(Config):
    """How text becomes examples.

    packing: "windows" joins the documents of a unit and cuts them into windows of sequence_length; "documents" makes
        one example of each.
    end_of_text: end each document with the tokenizer's end-of-text token, where the tokenizer has not put one: what
        never saw it cannot stop. Chats end as their template says.
    attention: within a window, "document" keeps each document to itself (positions restart); "causal" lets
        a token see everything before it. Pinned in the manifest and used for teacher and student.
    overlong: what to do with a document longer than sequence_length when packing is "documents".
    loss_on: chats only: supervise the assistant's words or every token.
    turns: chats only: "all" of the assistant's turns are supervised, in one example where the template lets earlier
        turns stand as they were said, else (it may strip their thinking) in several, each ending with its turn; "last":
        the last turn alone; "each": every turn in an example of its own, whatever the template.
    date: chats only: the day that the template takes for today, such as 2025-01-31; by default the day on which the
        dump began, where the template asks for it.
    num_classes: columns of the logits that are kept, by default one for each id of the tokenizer. Fewer where a
        tokenizer has ids that its teacher has no row for (Gemma 3 1B, 262,145 for 262,144): a text that contains one is
        a bad row.
    """

    name: Literal["causal_lm"] = "causal_lm"
    sequence_length: Annotated[int, Field(ge=2)] = 1024
    packing: Literal["windows", "documents"] = "windows"
    attention: Literal["document", "causal"] = "document"
    overlong: Literal["error", "truncate", "drop"] = "error"
    loss_on: Literal["assistant", "all"] = "assistant"
    end_of_text: bool = True
    turns: Literal["all", "last", "each"] = "all"
    date: Day | None = None
    num_classes: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def _turns_are_supervised(self) -> Self:
        if self.loss_on == "all" and self.turns != "all":
            raise ValueError(f"got task.turns {self.turns} with loss_on: all, expected loss_on: assistant")
        return self


def _distinct_labels(labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if labels is not None and (len(labels) < 2 or len(set(labels)) < len(labels)):
        raise ValueError(f"got labels {list(labels)}, expected at least two, all different")
    return labels


LabelNames = Annotated[tuple[str, ...] | None, AfterValidator(_distinct_labels)]
LabelMapping = Annotated[dict[Name, Name], Field(min_length=1)] | None


class SequenceClassificationConfig(Config):
    """One class for a whole text, or for a pair of texts (corpus.text_pair_field).

    max_length: tokens of an example; longer texts are cut, and counted in the summary.
    overlong: what of a longer text is read: its "head", its "tail", "middle_out" (its first and its last half), or
        "windows", all of it in windows that overlap by a quarter: each is an example with the label of its text, and
        the scores are of texts, by the mean of their windows' probabilities; loss and KL are of windows. By default
        what the tokenizer's truncation side says, for most the head. Pairs have no middle_out and no windows.
    labels: names of the classes, in the order of their ids. By default those of the teacher; without a teacher, those
        that the corpus has, sorted.
    label_map: what the corpus calls a label -> what the class is called, e.g. {pos: positive, 0: negative}.
    rest_class: the class of every label that is neither in label_map nor a class. Without it such a label is an error.
    """

    name: Literal["sequence_classification"]
    max_length: Annotated[int, Field(ge=3)] = 256
    overlong: Literal["head", "tail", "middle_out", "windows"] | None = None
    labels: LabelNames = None
    label_map: LabelMapping = None
    rest_class: Name | None = None
    attention: Literal["full"] = "full"


class TokenClassificationConfig(Config):
    """A tag for each word, as named entities have: its first sub-token is supervised, the rest is not.

    max_length: tokens of an example; longer rows become overlapping windows, each word supervised in the one that
        shows most of what is around it.
    labels: names of the tags, in the order of their ids; defaults as for sequence_classification, "O" first.
    label_map, rest_class: as for sequence_classification. Under scheme "bio" a key may be what follows B- and I-: PER:
        PERSON renames both, MISC: O drops both; rest_class: O drops every tag that the teacher lacks.
    scheme: "bio" refuses tags that are not BIO (O, B-X, and I-X after B-X or I-X); "none" takes any.
    separator: what stands between two words in running text, which is how a row is encoded: " ", "", or "auto", nothing
        in rows of scripts without spaces, such as Chinese, and a space in others.
    """

    name: Literal["token_classification"]
    max_length: Annotated[int, Field(ge=8)] = 256
    labels: LabelNames = None
    label_map: LabelMapping = None
    rest_class: Name | None = None
    scheme: Literal["bio", "none"] = "bio"
    separator: Literal["auto", " ", ""] = "auto"
    attention: Literal["full"] = "full"


ClassificationConfig = SequenceClassificationConfig | TokenClassificationConfig
LABEL_FIELDS = {"sequence_classification": "label_field", "token_classification": "tags_field"}
"""The setting below corpus.* that names the labels of a task."""
TaskConfig = Annotated[
    CausalLMConfig | ClassificationConfig, Chosen(TASKS, "name", lambda task: task.Settings, default="causal_lm")
]
