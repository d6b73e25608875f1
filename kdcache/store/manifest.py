"""What a cache says of itself: the header a dump pins before it starts, commit records, and the manifest.

    header.json             Header: what decides the bytes of every shard; written before them, never changed
    shards/000/000000.json  CommitRecord of one shard; a shard without a valid one does not exist
    cache.json              Manifest: header, corpus, totals and the pin of the table; absent = the dump is not finished
    shards.arrow            the table of shards: counts and digests (table.py)

What decides the bytes of one shard is pinned in its commit record: the digest of its rows of the corpus, and the
settings for bad or overlong rows where it has such rows. So a corpus may be mended, and these settings changed, in the
middle of a dump: the shards that this does not touch stay. The whole corpus is pinned at the end, in cache.json.

The JSON is canonical (sorted keys, no time, host or world size): the same dump writes the same bytes, and a digest is
the sha256 of the file: other bytes of the same meaning are refused on reading. Keys that are null are left out, so that
a key added later, null by default, leaves the digests of older caches as they are.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    PositiveInt,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    WithJsonSchema,
    computed_field,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic import Field as Limits

from kdcache.errors import CacheError, KdcacheError, one_line
from kdcache.store.backend import array_fields
from kdcache.store.blocks import COUNTED, Block, BlockExamples, BlockText, Place, PlaceText, blocks_fault
from kdcache.store.files import PART, check_name
from kdcache.store.requires import check_requires, required
from kdcache.store.taken import TakenText, taken_fault
from kdcache.targets.fields import Field
from kdcache.targets.kind import RecordKind
from kdcache.targets.records import Records, distribution_of
from kdcache.tasks.registry import DEFAULT
from kdcache.tasks.score import Score
from kdcache.tasks.tokenizer_names import check_tokenizer_name

if TYPE_CHECKING:
    from kdcache.store.shards import Shards

__all__ = [
    "FORMAT_VERSION",
    "BasisPin",
    "Besides",
    "CalibrationPin",
    "CommitRecord",
    "CorpusPin",
    "Header",
    "Manifest",
    "SkippedRow",
    "SourcePin",
    "TablePin",
    "TeacherPin",
    "TokenizerPin",
    "Totals",
    "canonical",
    "difference",
    "first_fault",
    "parse",
]

FORMAT_VERSION = 1
OF_THE_FILE = ("bytes", "sha256", "blocks", "frame")
"""What of a commit record depends on the bytes of its shard."""
DTYPES = {"uint8", "uint16", "uint32", "int8", "int16", "int32", "int64", "float16", "float32", "float64"}

Count = Annotated[int, Limits(ge=0, lt=1 << 48)]
"""So small that sums of them over all shards of a cache fit 64 bits."""
Sha256 = Annotated[str, Limits(pattern="^[0-9a-f]{64}$")]
FileName = Annotated[
    str,
    AfterValidator(check_name),
    WithJsonSchema({"type": "string", "pattern": f"^{PART.pattern}(/{PART.pattern})*$"}),
]
TokenizerName = Annotated[FileName, AfterValidator(check_tokenizer_name)]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(canonical(self)).hexdigest()

    def digest(self) -> str:
        """sha256 of the canonical JSON, and so of the file."""
        return self._digest

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, which has another digest."""
        copy = super().model_copy(update=update, deep=deep)
        for name in copy.__dict__.keys() - type(self).model_fields.keys():
            del copy.__dict__[name]
        return copy


class TokenizerPin(Model):
    """What is pinned of the tokenizer.

    Attributes:
        behaviour_sha256: Its identity, whatever its folder: `tokenizer_digest` of kdcache.tasks.tokenizer.
        vocab_size: Its highest id + 1.
        files: Name -> sha256 of the copies under tokenizer/; names of the closed list in tokenizer_names.py alone.
    """

    behaviour_sha256: Sha256
    vocab_size: Annotated[int, Limits(gt=0, le=1 << 32)]
    files: dict[TokenizerName, Sha256]


class TeacherPin(Model):
    """What is pinned of the teacher.

    Attributes:
        name: The folder or hub name that it was loaded from.
        revision: Of a model on the hub.
        weights_sha256: A digest of its weights.
        files: The digests of the other files that it was loaded from: config.json, and its own code if it ran any.
        dtype: The precision in which it computed.
        parameters: How many it has.
        architecture: Its class in transformers.
        tokenizer_sha256: The identity of its own tokenizer, where its tokens are not the cache's.
        prefix_sha256: A digest of what it alone saw before each text or chat.
        messages_field: The column of the conversations that it alone saw.
        max_length: How many tokens of an example it read at most, where its tokens are not the cache's.
    """

    name: str
    revision: str | None = None
    weights_sha256: Sha256 | None = None
    files: dict[str, Sha256] | None = None
    dtype: str | None = None
    parameters: NonNegativeInt | None = None
    architecture: str | None = None
    tokenizer_sha256: Sha256 | None = None
    prefix_sha256: Sha256 | None = None
    messages_field: str | None = None
    max_length: PositiveInt | None = None

    @property
    def sees_more(self) -> bool:
        """Whether it saw more than the cache's tokens."""
        return self.prefix_sha256 is not None or self.messages_field is not None

    @property
    def reads_its_own(self) -> bool:
        """Whether what it read is not in the cache."""
        return self.tokenizer_sha256 is not None or self.sees_more


class CorpusPin(Model):
    """What is pinned of the corpus.

    Attributes:
        sha256: Of every file's size and content, in order.
        files, rows, bytes: How many there are.
        grown_at: Rows at which it ended when more were appended, where these are not what ends a unit anyway: the units
            begin anew there.
    """

    sha256: Sha256
    files: NonNegativeInt
    rows: NonNegativeInt
    bytes: NonNegativeInt
    grown_at: tuple[Count, ...] | None = None


class CalibrationPin(Model):
    """What a basis was made of: the first so many units of the corpus.

    source_sha256: of their source digests. made_under: as in a commit record, over these units.
    """

    units: NonNegativeInt
    source_sha256: Sha256
    made_under: dict[str, str] | None = None


class BasisPin(Model):
    """The basis of calibrated records. soft_cap: of the teacher's logits; bytes, sha256: of the file."""

    file: FileName
    rank: PositiveInt
    soft_cap: float | None = None
    bytes: NonNegativeInt
    sha256: Sha256
    calibration: CalibrationPin | None = None


class SourcePin(Model):
    """A finished cache that another one was made of, by `kdcache merge`, `kdcache filter` or `kdcache ensemble`.

    Attributes:
        cache_sha256: Its digest.
        shards: How many it had; those of a merged cache stand in the order of its sources.
        examples: How many it had.
        teacher: As in its header.
        corpus: As in its cache.json.
        seed: As in its header: a record was drawn with this seed, and with the example number that it had there.
        compute: As in its header.
        libraries: As in its header.
        where: Which of its examples were taken; None for all of them.
        weight: Of an ensemble, how much its teacher counts in the mean; the weights of all sources sum to 1.
        sources: What it was made of itself.
    """

    cache_sha256: Sha256
    shards: Count
    examples: Count
    teacher: TeacherPin | None = None
    corpus: CorpusPin | None = None
    seed: NonNegativeInt = 0
    compute: dict[str, Any] = {}
    libraries: dict[str, str] = {}
    where: str | None = None
    weight: Annotated[float, Limits(gt=0, le=1)] | None = None
    sources: "tuple[SourcePin, ...] | None" = None


class Header(Model):
    """What decides the bytes of every shard, pinned before the first one is written.

    Attributes:
        backend: The registered name of the shards' format.
        task: The settings of the task.
        records: What is kept of the teacher; nothing in a label-only cache.
        num_classes: Columns of the teacher's logits.
        fields: The arrays of every shard.
        block_examples: How many examples a block of a shard has, or "auto" (blocks.py).
        compute: The settings of the teacher's run.
        seed: Of the draws of sampled records.
        libraries: The versions that the bytes depend on.
        id2label: The names of the classes; None for a language model.
        basis: The basis of calibrated records.
        sources: The caches that it was made of; None of a cache that was made of a corpus.
        requires: The features of the format that a reader must know (requires.py); it follows from the others.
    """

    format: Literal["kdcache"] = "kdcache"
    format_version: PositiveInt = FORMAT_VERSION
    backend: str = "zarr"
    task: dict[str, Any]
    records: Records = ()
    num_classes: Annotated[int, Limits(gt=0, lt=1 << 31)]
    fields: tuple[Field, ...]
    block_examples: BlockExamples = "auto"
    tokenizer: TokenizerPin | None = None
    teacher: TeacherPin | None = None
    compute: dict[str, Any] = {}
    seed: NonNegativeInt = 0
    libraries: dict[str, str] = {}
    id2label: dict[int, str] | None = None
    basis: BasisPin | None = None
    sources: tuple[SourcePin, ...] | None = None

    @field_validator("id2label")
    @classmethod
    def _in_order(cls, id2label: dict[int, str] | None) -> dict[int, str] | None:
        """JSON sorts keys as text: 0, 1, 10, 2."""
        return None if id2label is None else dict(sorted(id2label.items()))

    @model_validator(mode="before")
    @classmethod
    def _requires_follows(cls, data: Any) -> Any:
        """`parse` compares what is stored with what follows."""
        return {key: value for key, value in data.items() if key != "requires"} if isinstance(data, dict) else data

    @computed_field  # type: ignore[prop-decorator]
    @property
    def requires(self) -> list[str]:
        """The features of the format that a reader must know, in alphabetical order."""
        task, kinds = str(self.task.get("name", DEFAULT)), [kind.kind for kind in self.records]
        more = {"basis": self.basis is not None, "sources": self.sources is not None}
        return required(self.backend, kinds, task, self.fields, [name for name, used in more.items() if used])

    @property
    def class_names(self) -> list[str]:
        """Of a classification, in the order of their ids; none of a language model."""
        return [*(self.id2label or {}).values()]

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = serialize(self)
        for name in ("basis", "sources"):
            if getattr(self, name) is None:
                values.pop(name, None)
        return values

    @property
    def distribution(self) -> RecordKind | None:
        """The record that is the teacher's distribution; None where there is none."""
        return distribution_of(self.records)

    @property
    def features_width(self) -> int | None:
        """How many numbers the teacher's features at a position have; None where the records hold none."""
        return next((field.shape[0] for field in self.fields if field.name == "features"), None)

    @property
    def settings(self) -> Self:
        """What was decided before there was a basis."""
        late = {name for kind in self.records for name in kind.late_fields}
        fields = tuple(field for field in self.fields if field.name not in late)
        return self.model_copy(update={"basis": None, "fields": fields})

    @model_validator(mode="after")
    def _fields_can_be_stored(self) -> Self:
        names = [field.name for field in array_fields(self.fields)]
        if len(set(names)) < len(names) or not all(name.isidentifier() for name in names):
            raise ValueError(f"got field names {names}, expected different ones, each an identifier")
        for field in self.fields:
            if field.dtype not in DTYPES or min(field.shape, default=1) < 1:
                raise ValueError(f"got field {field}, expected a plain number dtype and lengths above 0")
        return self


class SkippedRow(Model):
    """A bad row that was left out. row: its number in the unit. why: what is wrong with it."""

    row: NonNegativeInt
    why: str


class Besides(Model):
    """What few commit records say, and the table of shards says too. The attributes: see CommitRecord."""

    notes: dict[str, Count] = {}
    skipped: tuple[SkippedRow, ...] | None = None
    made_under: dict[str, str] | None = None
    taken: tuple[TakenText, ...] | None = None


class CommitRecord(Model):
    """One committed shard.

    Attributes:
        unit: Its number, which is that of the work unit it came from.
        file: The name of its file inside the cache.
        examples, tokens, documents, positions, entries: How many it holds.
        bytes, sha256: The size and the digest of its file.
        block_examples: How many examples each of its blocks has but the last.
        blocks: Where each lies in the file, its digest and its counts (blocks.py); `block` reads them.
        frame: Where the bytes lie that a block cannot be decoded without, of backends that have such.
        source_sha256: The digest of the corpus rows that it was made from.
        header_sha256: The digest of the header that it was made under.
        notes: Counts worth telling, such as {"truncated": 3}.
        score: The teacher's score on the labels, where there are both, in sums that the task defines.
        skipped: The bad rows that were left out, in order.
        made_under: The settings for bad and overlong rows, where it has some, such as {"overlong": "truncate"}.
        taken: Of a filtered cache, the examples of its source that these are: a line for each shard (taken.py).
    """

    unit: Count
    file: FileName
    examples: Count
    tokens: Count
    documents: Count
    positions: Count
    entries: Count
    bytes: Count
    sha256: Sha256
    block_examples: Annotated[int, Limits(ge=1, le=1 << 20)]
    blocks: tuple[BlockText, ...]
    frame: PlaceText | None = None
    source_sha256: Sha256 | Literal[""] = ""
    header_sha256: Sha256
    notes: dict[str, Count] = {}
    score: Score | None = None
    skipped: tuple[SkippedRow, ...] | None = None
    made_under: dict[str, str] | None = None
    taken: tuple[TakenText, ...] | None = None

    @cached_property
    def content_sha256(self) -> str:
        """The digest of the record without what depends on the file: each block of the shard holds it in its stamp."""
        return hashlib.sha256(canonical(self, exclude=OF_THE_FILE)).hexdigest()

    def block(self, index: int) -> Block:
        """One of its blocks, from 0."""
        start = index * self.block_examples
        return Block.of(self.blocks[index], max(0, min(self.block_examples, self.examples - start)))

    @property
    def around(self) -> Place | None:
        """What a reader of any block needs besides; None where a block says all there is to know."""
        return None if self.frame is None else Place.parse(self.frame)

    @model_validator(mode="after")
    def _blocks_fit(self) -> Self:
        counts = {name: getattr(self, name) for name in COUNTED}
        if fault := blocks_fault(self.blocks, self.block_examples, counts, self.bytes):
            raise ValueError(fault)
        if self.taken is not None and (fault := taken_fault(self.taken, self.examples)):
            raise ValueError(fault)
        return self


class Totals(Model):
    shards: Count
    examples: Count
    tokens: Count
    documents: Count
    positions: Count
    entries: Count
    bytes: Count
    notes: dict[str, Count]
    score: Score | None = None


class TablePin(Model):
    """The file of table.py: what is pinned of every shard."""

    file: Literal["shards.arrow"] = "shards.arrow"
    bytes: NonNegativeInt
    sha256: Sha256


class Manifest(Model):
    """A finished cache: its header, the corpus it was made of, the totals of its shards, and the pin of their table."""

    header: Header
    corpus: CorpusPin | None = None
    totals: Totals
    table: TablePin
    _shards: "Shards" = PrivateAttr()

    @property
    def shards(self) -> "Shards":
        """The shards, in order; `shards.py` gives a manifest its own."""
        return self._shards

    @property
    def shard_examples(self) -> np.ndarray:
        """Examples in each shard, int64."""
        return self._shards.table["examples"]

    @property
    def block_examples(self) -> np.ndarray:
        """Examples in each block of a shard but its last, int64."""
        return self._shards.table["block_examples"].astype(np.int64)


M = TypeVar("M", bound=Model)


def canonical(model: BaseModel, exclude: Collection[str] = ()) -> bytes:
    """The one JSON text of a model. exclude: keys to leave out."""
    values = model.model_dump(mode="json", exclude_none=True, exclude={*exclude})
    return (json.dumps(values, sort_keys=True, indent=1) + "\n").encode()


def parse(cls: type[M], data: bytes, where: str, remedy: str = "copy it again") -> M:
    """A model from JSON read at `where`. remedy: what to do about a damaged one.

    Raises CacheError: not JSON, another format, a format version newer than this package, a feature that it does not
    know, a bad value, or bytes that are not canonical. What is too new is said before anything is called damaged.
    """
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise CacheError(f"{where} is not JSON, expected {cls.__name__.lower()} of a kdcache cache; {remedy}") from None
    header = values.get("header", values) if isinstance(values, dict) else {}
    version = header.get("format_version") if isinstance(header, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CacheError(
            f"{where} has format version {version}, expected at most {FORMAT_VERSION}: "
            "update kdcache to read this cache"
        )
    features = header.get("requires") if isinstance(header, dict) else None
    check_requires(features, where)
    try:
        model = cls.model_validate(values)
        again = canonical(model)
    except ValidationError as error:
        raise CacheError(f"{where} is damaged: {first_fault(error)}; {remedy}") from None
    except (KdcacheError, ValueError, TypeError, RecursionError) as error:
        raise CacheError(f"{where} is damaged: {one_line(error, 200)}; {remedy}") from None
    follows = getattr(getattr(model, "header", model), "requires", None)
    if features != follows:
        raise CacheError(f"{where} is damaged: requires: got {features}, expected {follows}; {remedy}")
    if again != data:
        raise CacheError(f"{where} is damaged: got other JSON than a writer makes of its values; {remedy}")
    model.__dict__["_digest"] = hashlib.sha256(data).hexdigest()
    return model


def first_fault(error: ValidationError) -> str:
    """The first thing wrong with a model, in one line."""
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"]) or "it"
    return f"{key}: {fault['msg'].removeprefix('Value error, ')}"


def difference(
    first: BaseModel, second: BaseModel, keys: Sequence[str] | None = None
) -> tuple[str, object, object] | None:
    """The first key, in sorted order, at which two models differ, dotted, with both values; None if they are equal.

    keys: those to compare, in their order, by default all of them.

    `requires` of a header is left out: it follows from the other keys. So are the name and the revision of a teacher
    whose weights are the same: they say where it lay.
    """
    one, other = first.model_dump(mode="json"), second.model_dump(mode="json")
    if keys is None:
        return _difference("", one, other)
    return next(filter(None, (_difference(key, one.get(key), other.get(key)) for key in keys)), None)


def _difference(key: str, first: object, second: object) -> tuple[str, object, object] | None:
    if key == "records" and isinstance(first, list) and isinstance(second, list):
        first, second = ({kind["kind"]: kind for kind in kinds} for kinds in (first, second))
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return None if first == second else (key, first, second)
    left_out = {"requires"} if not key else set()
    if key == "teacher" and first.get("weights_sha256") and first["weights_sha256"] == second.get("weights_sha256"):
        left_out = {"name", "revision"}
    for name in sorted((first.keys() | second.keys()) - left_out):
        found = _difference(f"{key}.{name}".lstrip("."), first.get(name), second.get(name))
        if found:
            return found
    return None
