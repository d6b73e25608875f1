"""The settings of a run: one YAML file, read into frozen classes that refuse what they do not know.

Every class names its defaults here and nowhere else. Relative paths are relative to the working directory.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from kdcache.errors import ConfigError
from kdcache.losses.kinds import Kind, Reduction, check_reduction, kind_parameters
from kdcache.losses.temperature import Schedule, softmax_temperature
from kdcache.targets.spec import RecordSpec

__all__ = [
    "CausalLMConfig",
    "ComputeConfig",
    "CorpusConfig",
    "DumpConfig",
    "StudentConfig",
    "TeacherConfig",
    "TermConfig",
    "TrainConfig",
    "load_config",
]


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CorpusConfig(Config):
    """Where the text is. `paths` are files, folders, globs or fsspec URLs.

    Of plain text a file is a row; one above 64 KiB is cut at blank lines.

    unit_rows: corpus rows per work unit, and so per shard; "auto" aims at 2 MiB of corpus a unit and at 64 units.
    """

    paths: tuple[str, ...]
    format: Literal["jsonl", "parquet", "arrow", "csv", "text"]
    text_field: str = "text"
    messages_field: str | None = None
    unit_rows: PositiveInt | Literal["auto"] = "auto"

    @field_validator("paths", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class CausalLMConfig(Config):
    """How text becomes examples.

    packing: "windows" joins the documents of a unit, each ended by the end-of-text token, and cuts them into
        windows of sequence_length; "documents" makes one example of each.
    attention: within a window, "document" keeps each document to itself (positions restart); "causal" lets
        a token see everything before it. Pinned in the manifest and used for teacher and student.
    overlong: what to do with a document longer than sequence_length when packing is "documents".
    loss_on: chats only: supervise the assistant's words or every token.
    """

    name: Literal["causal_lm"] = "causal_lm"
    sequence_length: Annotated[int, Field(ge=2)] = 1024
    packing: Literal["windows", "documents"] = "windows"
    attention: Literal["document", "causal"] = "document"
    overlong: Literal["error", "truncate", "drop"] = "error"
    loss_on: Literal["assistant", "all"] = "assistant"


class TeacherConfig(Config):
    """path: folder or hub name of a transformers model.

    placement: "replicate", a whole copy on each rank's device, or "device_map", layers spread over
        gpus_per_replica devices; ranks of one node own disjoint groups.
    attention_implementation: null leaves the choice to transformers.
    """

    path: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    placement: Literal["replicate", "device_map"] = "replicate"
    gpus_per_replica: PositiveInt = 1
    attention_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    trust_remote_code: bool = False


class ComputeConfig(Config):
    """What else the bits of a logit depend on: pinned in the manifest, the same for every world size.

    batch_examples: examples a forward pass. block_positions: rows of logits made and compressed at a time.
    threads: CPU threads of each rank; 0 takes every core. With several ranks on one machine without GPUs, set it
        to cores / ranks.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_examples: PositiveInt = 8
    block_positions: PositiveInt = 512
    threads: NonNegativeInt = 0


class DumpConfig(Config):
    """A `kdcache dump-logits` run."""

    output: str
    corpus: CorpusConfig
    teacher: TeacherConfig | Literal["none"]
    tokenizer: str | None = None
    task: CausalLMConfig = CausalLMConfig()
    record: RecordSpec = RecordSpec()
    backend: Literal["zarr", "arrow"] = "zarr"
    compute: ComputeConfig = ComputeConfig()
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _tokenizer_is_known(self) -> Self:
        if self.teacher == "none" and self.tokenizer is None:
            raise ValueError("got teacher: none and no tokenizer, expected tokenizer: FOLDER")
        return self


class StudentConfig(Config):
    """Either `config`, a transformers model config to initialise at random (with model_type), or `path`, a folder.

    dtype: of the folder that is written. The precision of the run is DeepSpeed's, e.g. bf16.enabled.
    """

    path: str | None = None
    config: dict[str, Any] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.config is None):
            raise ValueError("expected exactly one of student.path and student.config")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("got student.config without model_type, expected one, e.g. model_type: llama")
        return self


class TermConfig(Config):
    """One term of the loss.

    name: "divergence" compares with the teacher, "cross_entropy" with the labels.
    kind, alpha, beta: which divergence, with its parameters; kdcache.losses.kinds lists them.
    temperature, schedule: which softmax, of teacher and student; kdcache.losses.temperature says how the source
        article's schedule maps onto the usual one, "hinton".
    temperature_squared: times the square of the usual temperature, so that the gradient keeps its size.
    estimator: forward_kl of sampled records: "normalised" or the exactly unbiased "horvitz_thompson".
    reduction: "class_mean" is −(1/classes) Σ p log p_student, the source article's soft cross-entropy: for forward_kl,
        and for cross_entropy with the label as p.
    """

    name: Literal["divergence", "cross_entropy"]
    kind: Kind = "forward_kl"
    alpha: float | None = None
    beta: float | None = None
    temperature: PositiveFloat = 1.0
    schedule: Schedule = "hinton"
    temperature_squared: bool = True
    estimator: Literal["normalised", "horvitz_thompson"] = "normalised"
    reduction: Reduction = "mean"
    weight: NonNegativeFloat = 1.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        of_divergences = {"kind", "alpha", "beta", "estimator"}
        extra = of_divergences & self.model_fields_set
        if self.name == "cross_entropy" and extra:
            valid = ", ".join(field for field in type(self).model_fields if field not in of_divergences | {"name"})
            raise ValueError(f"got {', '.join(sorted(extra))} in a cross_entropy term, expected only {valid}")
        if self.kind != "forward_kl" and "estimator" in self.model_fields_set:
            raise ValueError(f"got estimator for kind {self.kind}, expected it only for forward_kl")
        try:
            kind_parameters(self.kind, self.parameters)
            check_reduction(self.kind, self.reduction)
            softmax_temperature(self.temperature, self.schedule, self.kind)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def parameters(self) -> dict[str, float]:
        """Those of the kind that are set."""
        return {name: value for name, value in (("alpha", self.alpha), ("beta", self.beta)) if value is not None}

    @property
    def softmax_temperature(self) -> float | None:
        """The temperature of the usual schedule; None at the article's one-hot limit."""
        return softmax_temperature(self.temperature, self.schedule)


class StreamConfig(Config):
    """The order of examples. lanes divides global_batch; the world size divides lanes.

    window: a lane shuffles its examples inside windows of so many. memory_gb: shards kept open by a rank.
    """

    lanes: PositiveInt = 64
    window: PositiveInt = 256
    memory_gb: PositiveFloat = 2.0


class ScheduleConfig(Config):
    """Learning rate: linear warm-up, then constant, linear or cosine decay to final_fraction of the peak."""

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

    cache: str
    every: NonNegativeInt = 0
    batch_examples: PositiveInt = 8
    max_examples: PositiveInt | None = None


class TrainConfig(Config):
    """A `kdcache train` run. One of steps and epochs says how long.

    deepspeed: path of a DeepSpeed JSON file, or its settings here; what the other keys say is not repeated in it.
    loss_chunk: positions whose logits exist at one time in the fused LM head and loss.
    """

    cache: str
    output: str
    student: StudentConfig
    deepspeed: str | dict[str, Any] = {"zero_optimization": {"stage": 1}}
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
    seed: NonNegativeInt = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("expected exactly one of steps and epochs")
        if not self.terms or all(term.weight == 0 for term in self.terms):
            raise ValueError("got no loss term with a weight above 0, expected at least one in terms")
        if self.global_batch % self.stream.lanes:
            raise ValueError(
                f"got global_batch {self.global_batch} and stream.lanes {self.stream.lanes}, "
                "expected lanes to divide global_batch"
            )
        return self


C = TypeVar("C", bound=Config)


def load_config(cls: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file, apply `key.sub=value` overrides (values are YAML; terms.0.weight is of the first), validate.

    Raises ConfigError: the first fault in one line, with the nearest valid key for an unknown one.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"got config {path}, which does not exist; expected a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror}; expected a YAML file") from None
    if not isinstance(data, dict):
        got = "nothing" if data is None else type(data).__name__
        raise ConfigError(f"{path} holds {got}, expected a mapping of settings")
    for override in overrides:
        _apply(data, override)
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_fault(cls, error)}") from None


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"got -o {override}, expected -o key=value, e.g. -o output=runs/cache")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"got -o {override}, expected a YAML value after =") from None
    *parents, last = key.split(".")
    inner: Any = data
    for depth, parent in enumerate(parents):
        name = _name_in(inner, parent, override)
        child = inner[name] if isinstance(inner, list) else inner.get(name)
        keeps_list = isinstance(child, list) and [*parents, last][depth + 1].isdecimal()
        if not isinstance(child, dict) and not keeps_list:
            inner[name] = child = {}
        inner = child
    inner[_name_in(inner, last, override)] = value


def _name_in(inner: dict[str, Any] | list[Any], name: str, override: str) -> Any:
    """A key of a mapping or the number of a list's item, counted from 0. Raises ConfigError outside the list."""
    if isinstance(inner, dict):
        return name
    if int(name) >= len(inner):
        raise ConfigError(f"got -o {override}, expected an item of the list from 0 to {len(inner) - 1}")
    return int(name)


def _first_fault(cls: type[BaseModel], error: ValidationError) -> str:
    faults = error.errors()
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    where = ".".join(str(part) for part in fault["loc"] if not _is_tag(part))
    if fault["type"] == "extra_forbidden":
        return _unknown_key(cls, fault["loc"], where)
    if fault["type"] == "missing":
        return f"{where} is missing, expected a value"
    message = fault["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
    if fault["type"] == "model_type":
        valid = _keys_at(cls, [part for part in fault["loc"] if isinstance(part, str)])
        return f"{where}: got {fault['input']!r}, expected a mapping with keys such as {', '.join(valid)}"
    if fault["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: got {fault['input']!r}: {message[0].lower()}{message[1:]}"


def _is_tag(part: int | str) -> bool:
    """Pydantic names the branch of a union in the location; a user has no such key."""
    return isinstance(part, str) and (part[:1].isupper() or "[" in part or part in ("int", "str", "tuple"))


def _unknown_key(cls: type[BaseModel], loc: tuple[int | str, ...], where: str) -> str:
    valid = _keys_at(cls, [part for part in loc[:-1] if isinstance(part, str)])
    nearest = difflib.get_close_matches(str(loc[-1]), valid, n=1, cutoff=0.0)
    hint = f"did you mean {nearest[0]}?" if nearest else ""
    return f"unknown key {where}; {hint} Valid keys here: {', '.join(valid)}"


def _keys_at(cls: type[BaseModel], path: list[str]) -> list[str]:
    """Valid keys of the nested config class at a location that pydantic reported."""
    for part in path:
        if part in cls.model_fields:
            found = _config_class(cls.model_fields[part].annotation)
            cls = found or cls
    return sorted(cls.model_fields)


def _config_class(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _config_class(argument)
        if found is not None:
            return found
    return None
