"""The settings of a `kdcache dump-logits` run."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from kdcache.config.base import Config, PathText, Run
from kdcache.corpus.settings import CorpusConfig
from kdcache.targets.spec import RecordSpec
from kdcache.tasks.settings import LABEL_FIELDS, CausalLMConfig, TaskConfig

__all__ = ["ComputeConfig", "DumpConfig", "TeacherConfig"]


class TeacherConfig(Config):
    """path: folder or hub name of a transformers model.

    max_length: tokens of an example as the teacher reads it, of a classification whose students have another tokenizer;
        by default task.max_length, or as many as the teacher can read.
    placement: "replicate", a whole copy on each rank's device, or "device_map", layers spread over
        gpus_per_replica devices; ranks of one node own disjoint groups.
    attention_implementation: null leaves the choice to transformers.
    """

    path: PathText
    revision: str | None = None
    max_length: Annotated[int, Field(ge=3)] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    placement: Literal["replicate", "device_map"] = "replicate"
    gpus_per_replica: PositiveInt = 1
    attention_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    trust_remote_code: bool = False


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


class DumpConfig(Run):
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
