"""Task: what a task asks of a corpus, keeps in a cache, trains and scores. One class for each task owns these facts.

A task is made of its settings alone: `task_of(mapping)` in registry.py, of a config or of a cache's header. What turns
rows into examples, which needs a tokenizer, is its Reader.

P positions, L tokens of an example, C classes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from kdcache.config.base import Config
from kdcache.corpus.column import Column, Where
from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import CorpusError, RowError, TeacherError
from kdcache.targets.fields import Field
from kdcache.tasks.example import Example
from kdcache.tasks.labels import Labels
from kdcache.tasks.measures import Measure, Usage
from kdcache.tasks.metrics import Predictions
from kdcache.tasks.score import Records, Score, Verdict

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from kdcache.targets.record import TeacherTargets

__all__ = ["Reader", "Task", "Where", "strings"]


class Reader(ABC):
    """Rows of a corpus -> examples with supervised positions, by the tokenizer that `Task.reader` was given.

    Attributes:
        labels: The classes; None for a language model, whose tokens they are.
    """

    labels: Labels | None = None

    def check(self, table: "pa.Table", where: Where) -> int:
        """Count the rows that have labels, without making tokens of them.

        Args:
            table: Rows with the columns that the task names.
            where: Row of the table -> "file.jsonl:123", for messages.

        Returns:
            How many of these rows have labels; 0 for a task whose labels are no column.

        Raises:
            RowError: A row has labels that `examples` would refuse.
        """
        return 0

    @abstractmethod
    def examples(self, table: "pa.Table", where: Where) -> tuple[list[Example], dict[str, int]]:
        """Make the examples of a unit's rows.

        Args:
            table: Rows with the columns that the task names.
            where: Row of the table -> "file.jsonl:123", for messages.

        Returns:
            The examples in the order of their rows, and counts of what was left out or cut, by name.

        Raises:
            RowError: A row cannot be used. Whether it can does not depend on the other rows.
        """


class Task(ABC):
    """The facts of one task. A subclass with a name, registered in registry.py, is all that a new task takes.

    Attributes:
        name: What `task.name` says in a config and in a cache's header.
        Settings: The class of its settings, with a field `name` that allows this name alone.
        auto_class: The Auto class of transformers that loads its models.
        pipeline: The pipeline of transformers that runs them, also the tag of a model card.
        generates: Whether it predicts the next token: classes are the tokenizer's ids, labels the tokens themselves,
            and records belong to these very tokens. Other tasks have a few classes with names, and labels from a
            column.
        one_position: Whether an example has one position, so that models give one row of logits for each example.
        every_class: Whether its records hold every class, because there are few.
        record_defaults: What its records are where the config does not say otherwise.
        length_setting: The setting that bounds the tokens of an example.
        label_setting: The setting below corpus.* that names the column of labels, if there is one.
        distributions: Whether a model's outputs are logits of a distribution, so that cross-entropy, divergences and
            agreement are defined. Raw scores have squared_error and cosine.
        exclusive: Whether a position has one class, so that classes can be weighted by their labels.
        problem_type: What transformers calls the task in the config of a model; None where it has no name for it.
        remedies: Settings that matter to no other rows than those that these notes of `Reader.examples` count.
        nothing_to_learn: What a user should look at where a corpus gives no supervised position.
        measures: What `kdcache eval` shows of it, in the order of the table's columns.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[Config]]
    auto_class: ClassVar[str]
    pipeline: ClassVar[str]
    generates: ClassVar[bool] = False
    one_position: ClassVar[bool] = False
    every_class: ClassVar[bool] = True
    record_defaults: ClassVar[Mapping[str, Any]] = {"kind": "dense"}
    distributions: ClassVar[bool] = True
    exclusive: ClassVar[bool] = True
    problem_type: ClassVar[str | None] = None
    length_setting: ClassVar[str] = "max_length"
    label_setting: ClassVar[str | None] = None
    remedies: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    nothing_to_learn: ClassVar[str] = "every row is empty; see corpus.text_field and corpus.tokens_field"
    measures: ClassVar[Mapping[str, Measure]]

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    # Settings

    @property
    def attention(self) -> str:
        """Which tokens of an example see each other: "full", or of packed text "document" or "causal"."""
        return str(getattr(self.settings, "attention", "full"))

    @property
    def longest(self) -> int:
        """Tokens of an example, at most."""
        return int(getattr(self.settings, self.length_setting))

    def with_length(self, longest: int) -> Self:
        """The same task with examples of at most so many tokens."""
        return type(self)(self.settings.model_copy(update={self.length_setting: longest}))

    def settled(self, tokenizer: Any, corpus: CorpusConfig, begun: Mapping[str, Any] | None) -> Self:
        """The task with what a dump has to decide before it starts, such as the day that a chat template reads.

        Args:
            tokenizer: Of the cache's tokens.
            corpus: The settings of the corpus.
            begun: The task of the header of a cache that the dump goes on with, if there is one.
        """
        return self

    def check_corpus(self, corpus: CorpusConfig) -> None:  # noqa: B027  # nothing to check is the usual case
        """Compare the settings of a corpus with the task's.

        Raises:
            ValueError: They do not go together; the message says what was got and what is expected.
        """

    # Rows of a corpus

    @abstractmethod
    def columns(self, corpus: CorpusConfig) -> tuple[Column, ...]:
        """The columns that a reader needs of each row, to open the corpus with."""

    @abstractmethod
    def texts(self, table: "pa.Table", corpus: CorpusConfig) -> Iterator[str]:
        """All text of these rows, to make a tokenizer of."""

    def label_names(self, table: "pa.Table", corpus: CorpusConfig) -> Iterable[str | None]:
        """All labels of these rows, to make classes of."""
        return ()

    def classes(self, teacher: Any | None, found: Callable[[], set[str | None]]) -> Labels | None:
        """Find the classes and their names; None where the classes are tokens.

        Args:
            teacher: The transformers config of the teacher; None without one.
            found: Gives the labels that the corpus has; it reads the whole corpus.

        Raises:
            ConfigError: The settings name other classes than the teacher has.
            CorpusError: There is no teacher, the settings name none, and the corpus has none.
        """
        return None

    @property
    def finds_classes(self) -> bool:
        """Whether the corpus alone says which classes there are, where there is no teacher."""
        return False

    @abstractmethod
    def reader(self, tokenizer: Any, corpus: CorpusConfig, labels: Labels | None) -> Reader:
        """What makes examples of rows.

        Args:
            tokenizer: A tokenizer of transformers.
            corpus: The settings of the corpus.
            labels: What `classes` found.

        Raises:
            ConfigError: The tokenizer cannot do what the settings ask for.
        """

    # What a teacher reads that sees more than its students

    def check_view(self, corpus: CorpusConfig, prefix: Any | None) -> None:
        """Compare what a teacher is to see beyond the cache's tokens with the task's settings.

        Args:
            corpus: The settings of the corpus; they may name a column that the teacher alone reads.
            prefix: What it sees before each text, or None.

        Raises:
            ValueError: They do not go together; the message says what was got and what is expected.
        """
        if prefix is not None:
            raise ValueError(f"got teacher.prefix for {self.name}, expected it for language models only")

    def view(
        self, tokenizer: Any, corpus: CorpusConfig, prefix: Any | None, length: Callable[[int], int]
    ) -> "tuple[Task, Reader] | None":
        """What makes the inputs of a teacher that sees more than the cache's tokens.

        Args:
            tokenizer: Of both.
            corpus: The settings of the corpus.
            prefix: What it sees before each text, or None.
            length: Gives the most tokens of an input, of those that it needs or may need.

        Returns:
            The task as the teacher is asked it, and rows to its inputs, `Example.stands` with them; None for a teacher
            that sees what its students see.
        """
        return None

    # What a cache keeps

    def num_classes(self, vocab_size: int, labels: Labels | None) -> int:
        """Columns of the logits that are recorded."""
        assert labels is not None
        return len(labels)

    @abstractmethod
    def label_fields(self, num_classes: int) -> tuple[Field, ...]:
        """The arrays of a shard that hold the labels of positions."""

    def end(self, length: int) -> int:
        """The first place in an example of so many tokens that cannot be a position."""
        return length

    def default_positions(self, length: int) -> np.ndarray:
        """The positions of an example of so many tokens where its maker names none, int64 [P]."""
        return np.zeros(1, np.int64) if self.one_position else np.arange(self.end(length))

    @abstractmethod
    def checked_labels(self, labels: Any, tokens_L: np.ndarray, positions_P: np.ndarray, num_classes: int) -> Any:
        """The labels of an example as they are stored.

        Args:
            labels: What the example's maker gives for each position; None where nothing is given.
            tokens_L: The tokens.
            positions_P: The positions.
            num_classes: Columns of the logits.

        Raises:
            CacheError: They cannot be stored.
        """

    @abstractmethod
    def label_faults(self, labels: np.ndarray, num_classes: int) -> Iterator[str]:
        """What is wrong with the labels of a stored shard, one line each."""

    # The teacher's own score on the labels

    @abstractmethod
    def score(self, parts: Iterable[Records], num_classes: int) -> Score | None:
        """What the records of one shard say of its labels, in sums that add up over shards; None without labels.

        Args:
            parts: The shard's examples with their records, some at a time.
            num_classes: Columns of the logits.
        """

    @abstractmethod
    def verdict(self, score: Score, names: Sequence[str], num_classes: int) -> Verdict:
        """A score in words, with a warning where it is near chance.

        Args:
            score: The sum of all shards.
            names: Of the classes, in the order of their ids; none for a language model.
            num_classes: Columns of the logits.
        """

    # What a loss compares

    def row_classes(self, num_classes: int) -> int:
        """Columns of `rows`."""
        return num_classes

    def rows(self, outputs_PC: "Tensor") -> "Tensor":
        """A model's outputs as rows of logits whose softmax is a distribution, one or several for each position."""
        return outputs_PC

    def row_targets(self, targets: "TeacherTargets") -> "TeacherTargets":
        """The teacher's records as records of the same rows."""
        return targets

    def row_labels(self, labels: np.ndarray) -> np.ndarray:
        """The labels of positions as labels of the same rows."""
        return labels

    def check_outputs(self, outputs_PC: "Tensor") -> None:  # noqa: B027
        """Look at what a teacher gives, before it is recorded.

        Raises:
            TeacherError: It cannot be recorded.
        """

    # Models

    def vocab_size(self, num_classes: int, tokenizer_size: int | None) -> int:
        """The vocab_size of a student made from a config. tokenizer_size: highest id + 1, where the cache knows it."""
        return num_classes if self.generates or tokenizer_size is None else tokenizer_size

    def config_settings(self, names: Mapping[int, str] | None) -> dict[str, Any]:
        """What a cache says of a student's transformers config: the classes and their names."""
        if names is None:
            return {}
        return {"num_labels": len(names), "id2label": dict(names), "label2id": {name: i for i, name in names.items()}}

    def check_teacher(self, config: Any, num_classes: int) -> None:
        """Look at the transformers config of a loaded teacher.

        Raises:
            TeacherError: The teacher is of another task.
        """
        kind = getattr(config, "problem_type", None)
        if kind not in (None, self.problem_type):
            raise TeacherError(
                f"got a teacher for {kind} ({config.num_labels} outputs), expected one for {self.problem_type}: see "
                "task.name"
            )

    def logits_shape(self, length: int, num_classes: int) -> list[int]:
        """The shape of a model's logits for one example of so many tokens."""
        return [1, num_classes] if self.one_position else [1, length, num_classes]

    # Evaluation and use

    def outputs(self, logits_PC: "Tensor") -> "Tensor":
        """What predictions are told by, from a model's float32 logits, float32 [P, C]: log-probabilities."""
        return logits_PC.log_softmax(-1)

    def teacher_outputs(self, targets: "TeacherTargets") -> "Tensor":
        """The same of the teacher's records, float32 [P, C]."""
        return targets.dense_log_probs(1.0)

    def mean_of_teachers(self, outputs_KPC: "Tensor", shares_K: Sequence[float]) -> "Tensor":
        """What is recorded of several teachers together.

        Args:
            outputs_KPC: What `teacher_outputs` gives of each, float64 [K, P, C].
            shares_K: How much each counts; they sum to 1.

        Returns:
            Logits of the weighted mean of their probabilities, float64 [P, C]; −inf of a class that none ever gives.
        """
        from kdcache.targets.never import LOG_NEVER

        log_p_PC = (outputs_KPC + outputs_KPC.new_tensor(shares_K).log()[:, None, None]).logsumexp(0)
        never_PC = (outputs_KPC <= LOG_NEVER).all(0)
        return log_p_PC.masked_fill(never_PC, -math.inf)

    @abstractmethod
    def figures(
        self, means: Mapping[str, float], predictions: Predictions | None, names: Sequence[str]
    ) -> dict[str, float]:
        """The figures of a model on a held-out cache.

        Args:
            means: What `kdcache.losses.metrics.Sums` gives, in nats per position.
            predictions: On every position; None for a language model.
            names: Of the classes.
        """

    @abstractmethod
    def teacher_figures(
        self, label_nll: float | None, predictions: Callable[[], Predictions], names: Sequence[str]
    ) -> dict[str, Any] | None:
        """The teacher's row of an evaluation's table; None where the cache does not tell.

        Args:
            label_nll: −log p of the labels, in nats per position, where it is known.
            predictions: Gives the teacher's predictions on every position.
            names: Of the classes.
        """

    def class_table(self, predictions: Predictions, names: Sequence[str]) -> list[dict[str, Any]]:
        """name, precision, recall, f1 and support of each class; nothing for a task that has no such table."""
        return []

    @abstractmethod
    def usage(self, longest: int | None) -> Usage:
        """How a finished student is called. longest: tokens of an example, where the cache says so."""


def strings(column: "pa.ChunkedArray", field: str, where: Where) -> list[str]:
    """The text of a column. Raises CorpusError for a column of another type, RowError for a null in it."""
    import pyarrow as pa

    is_text = pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null
    if not any(test(column.type) for test in is_text):
        raise CorpusError(f"{where(0)}: {field} is {column.type}, expected a string")
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise RowError(where, row, f": {field} is null, expected a string; leave such rows out")
    found: list[str] = column.to_pylist()
    return found
