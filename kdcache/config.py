"""The settings of a run: one YAML file, read by config_file.py into frozen classes that refuse what they do not know.

Every class names its defaults here and nowhere else. Relative paths are relative to the working directory;
~ and $NAME are expanded in all of them.
"""

import datetime
import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from kdcache.errors import ConfigError
from kdcache.losses.kinds import Kind, Reduction, check_reduction, kind_parameters
from kdcache.losses.temperature import Schedule, softmax_temperature
from kdcache.paths import expanded
from kdcache.stream.fitting import advice
from kdcache.targets.spec import RecordSpec

__all__ = [
    "CausalLMConfig",
    "ClassificationConfig",
    "ComputeConfig",
    "CorpusConfig",
    "DumpConfig",
    "SequenceClassificationConfig",
    "StudentConfig",
    "TaskConfig",
    "TeacherConfig",
    "TermConfig",
    "TokenClassificationConfig",
    "TrainConfig",
]


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _expanded(path: str) -> str:
    try:
        return expanded(path)
    except ConfigError as error:
        raise ValueError(str(error)) from None


PathText = Annotated[str, AfterValidator(_expanded)]
"""A path, a URL or a hub name; ~ and $NAME are expanded."""


_DELIMITERS = {"tab": "\t", "space": " ", "comma": ",", "semicolon": ";"}


def _delimiter(value: object) -> object:
    if isinstance(value, str) and len(found := _DELIMITERS.get(value, value)) == 1 and found not in '"\n\r':
        return found
    raise ValueError(f"got {value!r}, expected one character, or {', '.join(_DELIMITERS)}")


def _name(value: object) -> object:
    """A column of conll and a class may be a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Name = Annotated[str, BeforeValidator(_name)]


def _numbered(value: object) -> object:
    if not value or not isinstance(value, list | tuple | dict):
        raise ValueError(f"got {value!r}, expected a list of names, or a mapping from integers to names")
    return value if isinstance(value, dict) else dict(enumerate(value))


def _comment(value: object) -> object:
    """A # without quotes is a comment of YAML, and so nothing."""
    if not value:
        raise ValueError('got nothing, expected how comment lines begin, in quotes as "#"; leave it out for none')
    return value


class CorpusConfig(Config):
    """Where the text is. `paths` are files, folders, globs or fsspec URLs; .gz, .bz2, .xz and .zst are decompressed.

    Of plain text a file is a row; one above 64 KiB is cut at blank lines. Of conll a sentence is a row.

    text_field, text_pair_field, messages_field, tokens_field: what a task reads: text or a pair of texts, a chat, the
        words of a sentence.
    label_field, tags_field: the label of a row and the tags of its words; rows without them may stand beside others.
    tokens_field, tags_field of conll: the columns of the words and the tags: by default the first and the last; a
        number, counted from 1, or from the end as -1; or a name of CoNLL-U: form, lemma, upos, xpos, feats, deprel ….
        Such a name, or a file that ends in .conllu, says that the file is CoNLL-U: comments, ranges (1-2) and empty
        nodes (1.1) are left out. tags_field: null reads no tags.
    delimiter: of csv and conll, what parts columns: a character, or tab, space, comma, semicolon. By default a comma
        (a TAB in .tsv files); of conll TABs, or in a line without one spaces.
    comment: of conll, how lines begin that are comments, such as "#".
    columns: of csv, the names of the columns, where files have no header.
    label_names: names of the integers in label_field or tags_field: a list from 0 on, or a mapping such as {-1: bad, 1:
        good}. Parquet and Arrow files that Hugging Face's datasets wrote have them. −1 is no label, if it has no name.
    quotes: of csv, whether quotes hold together what has delimiters or line breaks in it; false where they are
        characters like any others, as in many .tsv files.
    unit_rows: corpus rows per work unit, and so per shard; "auto" aims at 64 units, each of 256 KiB to 2 MiB of corpus,
        so that a small corpus is one unit.
        A dump that goes on keeps the units that it was begun with, however the corpus grew.
    """

    paths: tuple[PathText, ...]
    format: Literal["jsonl", "parquet", "arrow", "csv", "conll", "text"]
    text_field: str = "text"
    text_pair_field: str | None = None
    messages_field: str | None = None
    label_field: str | None = None
    tokens_field: Name | None = None
    tags_field: Name | None = None
    delimiter: Annotated[str, BeforeValidator(_delimiter)] | None = None
    comment: Annotated[str | None, BeforeValidator(_comment)] = None
    columns: tuple[str, ...] | None = None
    quotes: bool = True
    label_names: Annotated[dict[int, str] | None, BeforeValidator(_numbered)] = None
    unit_rows: PositiveInt | Literal["auto"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _conll_has_tokens_and_tags(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("format") == "conll":
            data = {"tokens_field": "tokens", "tags_field": "tags"} | data
            for setting in ("tokens_field", "tags_field"):
                if str(data[setting]).lower() in CONLLU:
                    data[setting] = data[setting].lower()
        return data

    @model_validator(mode="after")
    def _settings_fit_the_format(self) -> Self:
        given = {"delimiter": ("csv", "conll"), "comment": ("conll",), "columns": ("csv",), "quotes": ("csv",)}
        for setting, formats in given.items():
            default = type(self).model_fields[setting].default
            if getattr(self, setting) != default and self.format not in formats:
                raise ValueError(f"got {setting} for format {self.format}, expected it for {' or '.join(formats)} only")
        if self.format == "conll":
            _check_conll_column("tokens_field", self.tokens_field or "tokens", "tokens")
            _check_conll_column("tags_field", self.tags_field or "tags", "tags")
        return self

    @field_validator("paths", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("paths")
    @classmethod
    def _each_says_something(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        """What an unset variable leaves of a path would be the whole working directory, or the whole disk."""
        for path in paths:
            if path.strip() in ("", ".", "/"):
                raise ValueError(f"got {path!r}, expected a file, folder, glob or URL; the working directory is ./")
        if not paths:
            raise ValueError("got none, expected at least one file, folder, glob or URL")
        return paths


def _iso_date(value: object) -> object:
    if type(value) is datetime.date or value is None:
        return value
    try:
        return datetime.date.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(f"got {value}, expected a day such as 2025-01-31") from None


Day = Annotated[datetime.date, BeforeValidator(_iso_date)]


CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The columns of CoNLL-U."""


def _check_conll_column(setting: str, column: str, default: str) -> None:
    is_number = re.fullmatch(r"-?[1-9]\d*", column) is not None
    if not (is_number or column in (default, *CONLLU)):
        raise ValueError(
            f"got {setting} {column} for format conll, expected {default}, the number of a column, counted from 1, or "
            f"for CoNLL-U one of {', '.join(CONLLU)}"
        )


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
TaskConfig = Annotated[CausalLMConfig | ClassificationConfig, Field(discriminator="name")]


class TeacherConfig(Config):
    """path: folder or hub name of a transformers model.

    max_length: tokens of an example as the teacher reads it, of a classification whose students have another tokenizer;
        by default task.max_length, or as many as the teacher can read.
    placement: "replicate", a whole copy on each rank's device, or "device_map", layers spread over
        gpus_per_replica devices; ranks of one node own disjoint groups.
    attention_implementation: null leaves the choice to transformers.
    module: a module of yours to import first, which registers its own model classes (kdcache.register_student).
    """

    path: PathText
    revision: str | None = None
    max_length: Annotated[int, Field(ge=3)] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    placement: Literal["replicate", "device_map"] = "replicate"
    gpus_per_replica: PositiveInt = 1
    attention_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    trust_remote_code: bool = False
    module: str | None = None


class ComputeConfig(Config):
    """What else the bits of a logit depend on: pinned in the manifest, the same for every world size.

    batch_examples: examples a forward pass. block_positions: rows of logits made and compressed at a time.
    threads: CPU threads of each rank, at most 1,024; 0 takes every core. With several ranks on one machine without
        GPUs, set it to cores / ranks.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_examples: PositiveInt = 8
    block_positions: PositiveInt = 512
    threads: Annotated[int, Field(ge=0, le=1024)] = 0


class DumpConfig(Config):
    """A `kdcache dump-logits` run.

    tokenizer: a folder or a name, by default the teacher's; "characters" makes one of the corpus' own characters. Of a
        language model it is the teacher's, with a template of its own perhaps. Of a classification it may be another,
        that of the students: the cache holds its tokens, while the teacher reads its own of the same rows.
    record: by default 8 largest logits and a sample for a language model, every class for a classification.
    on_bad_row: what to do with a row that is not what the config says (not JSON, no text, too long, a chat that the
        template refuses, a label that is none): "error" ends the dump, finished shards stay; "skip" leaves it out,
        counts it, and lists it in skipped.jsonl of the cache.
    bad_rows_at_most: the share of the corpus' rows that may be skipped; more end the dump.

    on_bad_row, bad_rows_at_most and task.overlong may change in the middle of a dump: only shards whose rows they
    matter to are made again.
    """

    output: PathText
    corpus: CorpusConfig
    teacher: TeacherConfig | Literal["none"]
    tokenizer: PathText | None = None
    task: TaskConfig = CausalLMConfig()
    record: RecordSpec = RecordSpec()
    backend: Literal["zarr", "arrow"] = "zarr"
    compute: ComputeConfig = ComputeConfig()
    seed: NonNegativeInt = 0
    on_bad_row: Literal["error", "skip"] = "error"
    bad_rows_at_most: Annotated[float, Field(ge=0, le=1)] = 0.01

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_task(cls, data: Any) -> Any:
        """A task without a name is a language model's; records of a classification are dense unless the config says."""
        if not isinstance(data, dict):
            return data
        task, record = data.get("task"), data.get("record")
        if isinstance(task, dict):
            data = {**data, "task": {"name": "causal_lm", **task}}
            if data["task"]["name"] != "causal_lm" and isinstance(record, dict | None):
                dense = {"exact_top_k": "all", "logit_dtype": "float16"}
                data["record"] = record if record and "exact_top_k" in record else {**dense, **(record or {})}
        return data

    @model_validator(mode="after")
    def _tokenizer_is_known(self) -> Self:
        if self.teacher == "none" and self.tokenizer is None:
            raise ValueError("got teacher: none and no tokenizer, expected tokenizer: FOLDER, or tokenizer: characters")
        return self

    @model_validator(mode="after")
    def _labels_fit_the_task(self) -> Self:
        fitting = LABEL_FIELDS.get(self.task.name)
        for field in LABEL_FIELDS.values():
            if getattr(self.corpus, field) is not None and field != fitting and self.corpus.format != "conll":
                raise ValueError(f"got corpus.{field} for {self.task.name}, expected {fitting or 'no labels'}")
        if self.corpus.label_names is not None and (fitting is None or getattr(self.corpus, fitting) is None):
            raise ValueError(f"got corpus.label_names without corpus.{fitting or 'label_field'}, expected both or none")
        return self

    @model_validator(mode="after")
    def _pairs_are_cut_at_an_end(self) -> Self:
        overlong = getattr(self.task, "overlong", None)
        if self.corpus.text_pair_field is not None and overlong in ("middle_out", "windows"):
            raise ValueError(f"got task.overlong {overlong} for pairs (corpus.text_pair_field), expected head or tail")
        return self

    @model_validator(mode="after")
    def _record_fits_the_task(self) -> Self:
        if self.record.features == "pooled" and self.task.name != "sequence_classification":
            raise ValueError(f"got record.features pooled for {self.task.name}, expected positions")
        if self.task.name != "causal_lm" and not self.record.dense:
            raise ValueError(f"got record.exact_top_k {self.record.exact_top_k} for {self.task.name}, expected all")
        return self


class StudentConfig(Config):
    """Either `config`, a transformers model config to initialise at random (with model_type), or `path`, a folder or
    the name of a model on the Hugging Face hub, at `revision`.

    config: its vocab_size and special ids (end of text, padding, …) are the cache's unless it names them. A mixture of
        experts adds its balancing loss where output_router_logits is true, times router_aux_loss_coef.
    path: a folder keeps its special ids where they are special tokens of the cache's tokenizer.
    dtype: of the folder that is written. The precision of the run is DeepSpeed's, e.g. bf16.enabled; where its file
        says "auto", bfloat16 or float16 here answers it.
    module: a module of yours to import first, which registers its own model classes (kdcache.register_student).
    """

    path: PathText | None = None
    revision: str | None = None
    config: dict[str, Any] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    module: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.config is None):
            raise ValueError("expected exactly one of student.path and student.config")
        if self.revision is not None and self.path is None:
            raise ValueError("got student.revision without student.path, expected both or none")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("got student.config without model_type, expected one, e.g. model_type: llama")
        return self


_SOFTMAX = ("temperature", "schedule", "temperature_squared")
_COMPARED = (*_SOFTMAX, "reduction", "weighting", "entropy_temperature", "weight")
_TERM_FIELDS = {
    "divergence": ("kind", "alpha", "beta", "estimator", *_COMPARED),
    "cross_entropy": (*_COMPARED, "class_weights"),
    "entropy": (*_SOFTMAX, "weight"),
    "bottleneck": ("width", "beta", "weight"),
}


class TermConfig(Config):
    """One term of the loss. What a wider student gives to classes above the cache's costs it: kdcache.losses.surplus.

    name: "divergence" compares with the teacher, "cross_entropy" with the labels, "entropy" the student's entropy with
        the teacher's, (H_s − H_t)², and "bottleneck" what a stochastic bottleneck in the student says of the teacher's
        hidden features (record.features).
    kind, alpha, beta: which divergence, with its parameters; kdcache.losses.kinds lists them.
    temperature, schedule: which softmax, of teacher and student; kdcache.losses.temperature says how the source
        article's schedule maps onto the usual one, "hinton".
    temperature_squared: times the square of the usual temperature, so that the gradient keeps its size.
    estimator: forward_kl of sampled records: "normalised" or the exactly unbiased "horvitz_thompson".
    reduction: "class_mean" is −(1/classes) Σ p log p_student, the source article's soft cross-entropy: for forward_kl,
        and for cross_entropy with the label as p.
    weighting: "entropy" weighs each position of a divergence or cross_entropy term by ½ H_t (1 + H_s / log classes),
        the entropies at entropy_temperature; kdcache.losses.entropy.
    class_weights: of cross_entropy in a classification: {label: weight}, 1 for labels that it does not name, or
        "balanced": labelled positions / (labels that occur · positions of this label), counted in the cache. They
        weigh the sum; it is divided by the supervised positions of the global batch as ever, not by the sum of their
        weights, as torch's cross_entropy does with reduction "mean". "balanced" weights are 1 on average, so that both
        agree.
    width, beta: of the bottleneck, and what a nat through it costs, 0.01 by default; kdcache.losses.bottleneck.
    """

    name: Literal["divergence", "cross_entropy", "entropy", "bottleneck"]
    kind: Kind = "forward_kl"
    alpha: float | None = None
    beta: float | None = None
    temperature: PositiveFloat = 1.0
    schedule: Schedule = "hinton"
    temperature_squared: bool = True
    estimator: Literal["normalised", "horvitz_thompson"] = "normalised"
    reduction: Reduction = "mean"
    weighting: Literal["uniform", "entropy"] = "uniform"
    entropy_temperature: PositiveFloat = 3.0
    class_weights: Literal["balanced"] | dict[str, NonNegativeFloat] | None = None
    width: PositiveInt = 64
    weight: NonNegativeFloat = 1.0

    @field_validator("class_weights", mode="before")
    @classmethod
    def _labels_are_strings(cls, value: object) -> object:
        """YAML reads labels such as 0 and true as other types; a corpus' are these words."""
        if value in ("balanced", None):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"got {value!r}, expected a mapping of labels to weights, or balanced")
        for key, weight in value.items():
            if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise ValueError(f"got the weight {weight!r} of label {key}, expected a number of 0 or more")
        return {str(key).lower() if isinstance(key, bool) else str(key): weight for key, weight in value.items()}

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = serialize(self)
        if self.weighting == "uniform":
            values.pop("weighting", None)
            values.pop("entropy_temperature", None)
        if self.name != "bottleneck":
            values.pop("width", None)
        if self.class_weights is None:
            values.pop("class_weights", None)
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        valid = _TERM_FIELDS[self.name]
        extra = sorted(self.model_fields_set - {"name", *valid})
        if extra:
            article = "an" if self.name == "entropy" else "a"
            raise ValueError(f"got {', '.join(extra)} in {article} {self.name} term, expected only {', '.join(valid)}")
        if self.kind != "forward_kl" and "estimator" in self.model_fields_set:
            raise ValueError(f"got estimator for kind {self.kind}, expected it only for forward_kl")
        if self.weighting == "uniform" and "entropy_temperature" in self.model_fields_set:
            raise ValueError("got entropy_temperature without weighting: entropy, expected both or none")
        if self.name == "bottleneck" and not 0 <= self.bottleneck_beta < math.inf:
            raise ValueError(f"got beta {self.beta:g} in a bottleneck term, expected a finite number of 0 or more")
        try:
            kind_parameters(self.kind, self.parameters)
            check_reduction(self.kind, self.reduction)
            softmax_temperature(self.temperature, self.schedule, "entropy" if self.name == "entropy" else self.kind)
            softmax_temperature(self.entropy_temperature)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def parameters(self) -> dict[str, float]:
        """Those of the kind that are set."""
        given = {"alpha": self.alpha, "beta": self.beta} if self.name == "divergence" else {}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def softmax_temperature(self) -> float | None:
        """The temperature of the usual schedule; None at the article's one-hot limit."""
        return softmax_temperature(self.temperature, self.schedule)

    @property
    def bottleneck_beta(self) -> float:
        return 0.01 if self.beta is None else self.beta

    @property
    def needs_teacher(self) -> bool:
        """Whether it takes more than labels."""
        return self.name != "cross_entropy" or self.weighting == "entropy"


class StreamConfig(Config):
    """The order of examples. lanes divides global_batch; the world size divides lanes.

    window: a lane shuffles its examples inside windows of so many. memory_gb: shards kept open by a rank.
    """

    lanes: PositiveInt = 64
    window: PositiveInt = 256
    memory_gb: PositiveFloat = 2.0


class ScheduleConfig(Config):
    """Learning rate: linear warm-up, then constant, linear or cosine decay, to final_fraction of the peak at the end.

    So a run that goes on with other steps or epochs goes on with another rate, unless it is constant.
    """

    kind: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: NonNegativeInt = 0
    final_fraction: NonNegativeFloat = 0.1


class OptimizerConfig(Config):
    """AdamW."""

    learning_rate: PositiveFloat = 5e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.1
    clip_norm: NonNegativeFloat = 1.0


class CheckpointConfig(Config):
    """every: steps between checkpoints, 0 for one at the end only. keep: how many of the newest stay."""

    every: NonNegativeInt = 500
    keep: PositiveInt = 2


class EvalConfig(Config):
    """cache: a held-out cache. every: steps between evaluations, 0 for one at the end only."""

    cache: PathText
    every: NonNegativeInt = 0
    batch_examples: PositiveInt = 8
    max_examples: PositiveInt | None = None


class TrainConfig(Config):
    """A `kdcache train` run. One of steps and epochs says how long.

    deepspeed: path of a DeepSpeed JSON file, or its settings here; what the other keys say is not repeated in it, and
        "auto" is answered as kdcache/train/deepspeed_autos.py says.
    loss_chunk: positions whose logits exist at one time in the fused LM head and loss.
    export_bottleneck: write what bottleneck terms trained beside the student, as bottleneck.safetensors.
    """

    cache: PathText
    output: PathText
    student: StudentConfig
    deepspeed: PathText | dict[str, Any] = {"zero_optimization": {"stage": 1}}
    terms: tuple[TermConfig, ...] = (TermConfig(name="divergence"),)
    global_batch: PositiveInt = 64
    micro_batch: PositiveInt = 8
    steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    stream: StreamConfig = StreamConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig | None = None
    loss_chunk: PositiveInt = 1024
    log_every: PositiveInt = 10
    export_bottleneck: bool = False
    seed: NonNegativeInt = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.export_bottleneck and all(term.name != "bottleneck" for term in self.terms):
            raise ValueError("got export_bottleneck without a bottleneck term, expected one in terms")
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("expected exactly one of steps and epochs")
        if not self.terms or all(term.weight == 0 for term in self.terms):
            raise ValueError("got no loss term with a weight above 0, expected at least one in terms")
        if self.global_batch % self.stream.lanes:
            raise ValueError(
                f"got global_batch {self.global_batch} and stream.lanes {self.stream.lanes}, "
                f"expected lanes to divide global_batch; {self._fitting()}"
            )
        return self

    def _fitting(self) -> str:
        given = {"global_batch": self.global_batch, "stream.lanes": self.stream.lanes, "micro_batch": self.micro_batch}
        return advice(given)
