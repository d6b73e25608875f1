"""The settings of a `kdcache dump-logits` run."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, NonNegativeInt, model_validator

from kdcache.config.base import Config, Count, LocalText, PathText, Run, import_module_of
from kdcache.corpus.settings import LABEL_SETTINGS, CorpusConfig
from kdcache.dump.engines.registry import EngineConfig
from kdcache.store.backend import BackendName
from kdcache.store.blocks import BlockExamples
from kdcache.targets.records import Records
from kdcache.targets.sampled import Sampled
from kdcache.tasks import task_of
from kdcache.tasks.registry import DEFAULT, TASKS, TaskConfig

__all__ = ["ComputeConfig", "DumpConfig", "TeacherConfig"]

BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
BLOCK_POSITIONS = {"cpu": 512, "cuda": 2048}


def _message(value: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value.get("role"), str) or not isinstance(value.get("content"), str):
        raise ValueError(f"got a message with {', '.join(value) or 'nothing'}, expected role and content, both text")
    return value


Message = Annotated[dict[str, Any], AfterValidator(_message)]


class TeacherConfig(Config):
    """The model whose logits are recorded.

    path: a folder, or a name on the Hugging Face hub, of a transformers model.
    revision: the branch, tag or commit of a model on the hub.
    max_length: how many tokens of an example the teacher reads. In a classification whose students have another
        tokenizer, by default task.max_length, or as many as the teacher can read. Where a language model sees more
        than its students, by default task.sequence_length with the prefix, or of chats twice task.sequence_length; a
        longer input is a bad row.
    prefix: what the teacher of a language model sees before each text or chat, and the student does not: text, or of
        chats also a list of {role, content}. Text before a chat is a system message, or the beginning of the one that
        is there. Records stand at the student's tokens; a row whose tokens are others behind it is refused.
    dtype: the precision in which the teacher computes. Records are computed in float32 from its logits.
    placement: "replicate" puts a whole copy on each rank's device; "device_map" spreads the layers over
        gpus_per_replica devices, and the ranks of one node own disjoint groups of devices. "tensor_parallel" splits
        each layer over ranks_per_replica ranks, by transformers' plan for the model; "zero3" splits every weight of
        any model over them, by DeepSpeed's ZeRO-3, and gathers a layer's before it runs.
    gpus_per_replica: how many GPUs a rank takes for its copy of the teacher under "device_map".
    ranks_per_replica: how many ranks hold one copy of the teacher together under "tensor_parallel" and "zero3",
        with one GPU each: with g, the ranks r·g to r·g + g − 1, and the world size is a multiple of g. Work is
        shared out between replicas. A dump may go on with another number of replicas; g stays.
    attention_implementation: null leaves the choice to transformers, or to what a cache was begun with.
    engine: what runs it.
    trust_remote_code: whether code that comes with the model may run.
    """

    path: LocalText
    revision: str | None = None
    max_length: Annotated[int, Field(ge=3, le=2**24)] | None = None
    prefix: Annotated[str, Field(min_length=1)] | tuple[Message, ...] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    placement: Literal["replicate", "device_map", "tensor_parallel", "zero3"] = "replicate"
    gpus_per_replica: Count = 1
    ranks_per_replica: Count = 1
    attention_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    engine: EngineConfig

    trust_remote_code: bool = False


class ComputeConfig(Config):
    """What else the bits of a logit depend on. It is pinned in the manifest, and the same for every world size.

    device: "auto" takes a GPU where there is one.
    batch_tokens: tokens per forward pass of the teacher at most, padding included. A unit's examples are sorted by
        length, and a pass takes as many as fit: few long ones or many short ones; one that is longer goes alone, and 1
        runs each example alone. "auto" is 2,048 on a CPU and 16,384 on a GPU; less of it needs less memory.
    block_positions: how many rows of logits are made and compressed at a time; "auto" stands for 512 on a CPU and 2048
        on a GPU, which holds up to six such blocks of float32 numbers.
    threads: CPU threads of each rank; 0 takes every core, or as many as a cache was begun with on CPUs, whose bits
        depend on it. With several ranks on one machine without GPUs, set it to
        the number of cores divided by the number of ranks.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_tokens: Count | Literal["auto"] = "auto"
    block_positions: Count | Literal["auto"] = "auto"
    threads: Annotated[int, Field(ge=0, le=1024)] = 0

    def batch_tokens_on(self, device_type: str) -> int:
        """The number that "auto" stands for on a "cpu" or "cuda"."""
        return BATCH_TOKENS[device_type] if self.batch_tokens == "auto" else self.batch_tokens

    def block_positions_on(self, device_type: str) -> int:
        """Likewise."""
        return BLOCK_POSITIONS[device_type] if self.block_positions == "auto" else self.block_positions


class DumpConfig(Run):
    """The settings of a dump. The same command goes on with a dump that was stopped.

    on_bad_row, bad_rows_at_most and task.overlong may change in the middle of a dump: only shards whose rows are
    concerned are made again.

    output: the folder or URL of the cache.
    corpus: where the text is.
    teacher: the model whose logits are recorded, or "none" for a cache of labels alone.
    tokenizer: a folder or a name on the hub, by default the teacher's; "characters" makes a tokenizer of the corpus'
        own characters. For a language model it is the teacher's tokenizer, perhaps with another chat template. For a
        classification it may be the tokenizer of the students: the cache holds its tokens, while the teacher reads
        its own tokens of the same rows.
    task: what is asked of each row, and how rows become examples.
    record: what is kept of the teacher at each position: one kind, such as {kind: sampled}, or a list of several, such
        as [{kind: sampled}, {kind: features}], of which at most one is the distribution. By default {kind: sampled}
        for a language model, the 8 largest logits and a sample of the others, and {kind: dense}, every class, for a
        classification.
    backend: how shards are written: as Zarr groups (.zarr.zip), Arrow (.arrow) or Parquet files (.parquet).
    block_examples: how many examples of a shard are read at once in training. "auto" takes as many as decode to about
        2 MB, at most 4,096.
    compute: device, sizes of batches, threads.
    seed: of the draws of sampled records.
    on_bad_row: what to do with a row that is not what the settings say (it is not JSON, has no text, is too long, is a
        chat that the template refuses, has an unknown label). "error" ends the dump, and the finished shards stay;
        "skip" leaves the row out, counts it, and lists it in the cache's skipped.jsonl.
    bad_rows_at_most: the share of the corpus' rows that may be skipped; more of them end the dump.
    """

    output: PathText
    corpus: CorpusConfig
    teacher: TeacherConfig | Literal["none"]
    tokenizer: LocalText | None = None
    task: TaskConfig = Field({}, validate_default=True)
    record: Records = (Sampled(),)
    backend: BackendName = "zarr"
    block_examples: BlockExamples = "auto"
    compute: ComputeConfig = ComputeConfig()
    seed: NonNegativeInt = 0
    on_bad_row: Literal["error", "skip"] = "error"
    bad_rows_at_most: Annotated[float, Field(ge=0, le=1)] = 0.01

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_task(cls, data: Any) -> Any:
        """Records are what the task has by default, unless the config says."""
        if not isinstance(data, dict) or not isinstance(task := data.get("task"), dict):
            return data
        import_module_of(data)
        name, record = task.get("name", DEFAULT), data.get("record")
        if name in TASKS and isinstance(record, dict | None) and "kind" not in (record or {}):
            data = {**data, "record": {**TASKS[name].record_defaults, **(record or {})}}
        return data

    @model_validator(mode="after")
    def _tokenizer_is_known(self) -> Self:
        if self.teacher == "none" and self.tokenizer is None:
            raise ValueError("got teacher: none and no tokenizer, expected tokenizer: FOLDER, or tokenizer: characters")
        return self

    @model_validator(mode="after")
    def _engine_fits(self) -> Self:
        if self.teacher != "none":
            self.teacher.engine.check(self.teacher, task_of(self.task))
        return self

    @model_validator(mode="after")
    def _columns_fit_the_task(self) -> Self:
        task = task_of(self.task)
        fitting = task.label_setting
        if self.corpus.label_names is not None and (fitting is None or getattr(self.corpus, fitting) is None):
            raise ValueError(f"got corpus.label_names without corpus.{fitting or 'label_field'}, expected both or none")
        task.check_corpus(self.corpus)
        task.check_view(self.corpus, None if self.teacher == "none" else self.teacher.prefix)
        if self.teacher == "none" and self.corpus.teacher_messages_field is not None:
            raise ValueError("got corpus.teacher_messages_field with teacher: none, expected a teacher that reads it")
        unread = self.corpus.columns_named - {column.setting for column in task.columns(self.corpus)}
        for field in sorted(unread):
            instead = (fitting or "no labels") if field in LABEL_SETTINGS else "no such column, which it would not read"
            raise ValueError(f"got corpus.{field} for {task.name}, expected {instead}")
        return self

    @model_validator(mode="after")
    def _record_fits_the_task(self) -> Self:
        task = task_of(self.task)
        for kind in self.record:
            if fault := kind.misfit(few_classes=task.every_class, whole_examples=task.one_position):
                raise ValueError(f"{fault}, for {task.name}")
        return self
