"""What a header and a manifest say more than once has to agree: compared whenever one is read.

fields      those of the task and of the records, with the width of the features and the rank of the basis
basis       there if, and only if, a record is calibrated; its file is named by its digest
id2label    a name for every class
shards      numbered from 0, of this header, in the file of their number, with counts that can be
totals      the sums over the shards
"""

from kdcache.errors import CacheError, KdcacheError, one_line
from kdcache.store.manifest import CommitRecord, Header, Manifest
from kdcache.store.places import record_name
from kdcache.store.schema import check_task, task_fields
from kdcache.store.unit import EXAMPLES_PER_UNIT
from kdcache.targets.fields import Field, class_dtype
from kdcache.targets.records import calibrated_of

__all__ = ["check_header", "check_manifest"]

BASIS_NAME = "basis-{}."


def check_header(header: Header, where: str, remedy: str) -> None:
    """Raises CacheError for a header that contradicts itself. remedy: what to do about it."""
    if fault := _header_fault(header):
        raise CacheError(f"{where} is damaged: {fault}; {remedy}")


def check_manifest(manifest: Manifest, where: str, remedy: str) -> None:
    """Raises CacheError for a manifest that contradicts itself. remedy: what to do about it."""
    if fault := _header_fault(manifest.header) or _shards_fault(manifest):
        raise CacheError(f"{where} is damaged: {fault}; {remedy}")


def _header_fault(header: Header) -> str | None:
    try:
        check_task(header.task)
        expected = _fields(header)
    except (KdcacheError, ValueError, TypeError, LookupError, AttributeError) as error:
        return one_line(error, 200)
    if header.fields != expected:
        stored = next((one for one in header.fields if one not in expected), None)
        follows = next((one for one in expected if one not in header.fields), None)
        return f"got the field {_named(stored)}, expected {_named(follows)} of its task and records"
    pin, kinds = header.basis, [kind.kind for kind in header.records]
    if (pin is not None) != (calibrated_of(header.records) is not None):
        return f"got {'no basis' if pin is None else 'a basis'} with records {kinds}"
    if pin is not None and not pin.file.startswith(BASIS_NAME.format(pin.sha256[:12])):
        return f"got the basis {pin.file}, expected it named by its digest"
    if header.id2label is not None and [*header.id2label] != [*range(header.num_classes)]:
        return f"id2label: got {len(header.id2label)} names, expected one for each class"
    return None


def _shards_fault(manifest: Manifest) -> str | None:
    header_sha256 = manifest.header.digest()
    for index, shard in enumerate(manifest.shards):
        if (shard.unit, shard.header_sha256) != (index, header_sha256):
            return f"its entry {index} is not of this header"
        stem, _, suffix = shard.file.partition(".")
        if f"{stem}.json" != record_name(index) or not suffix or suffix == "json":
            return f"its entry {index} names the file {shard.file}"
        if fault := _count_fault(manifest.header, shard):
            return f"its entry {index} has {fault}"
    try:
        totals = Manifest.of(manifest.header, manifest.shards, manifest.corpus).totals
    except (TypeError, ValueError, ArithmeticError):  # scores of different kinds, or sums beyond what counts may be
        return "what its shards say cannot be added up"
    return None if totals == manifest.totals else "its totals are not those of its shards"


def _fields(header: Header) -> tuple[Field, ...]:
    """Those that follow from the rest of a header."""
    stored = {field.name: field for field in header.fields}
    vocab_size = header.tokenizer.vocab_size if header.tokenizer else 1 << 32
    if header.tokenizer is None and "tokens" in stored and stored["tokens"].dtype == class_dtype(1):
        vocab_size = 1
    task = check_task(header.task)
    types, rank = "token_types" in stored, header.basis.rank if header.basis else None
    width = header.features_width
    return task_fields(task, vocab_size, header.num_classes, header.records, features=width, types=types, rank=rank)


def _count_fault(header: Header, shard: CommitRecord) -> str | None:
    """Counts that no shard can have: examples of no tokens, documents of none, more positions than tokens."""
    for what, count, other, most in (
        ("examples", shard.examples, "in a unit", EXAMPLES_PER_UNIT),
        ("examples", shard.examples, "documents", shard.documents),
        ("documents", shard.documents, "tokens", shard.tokens),
        ("positions", shard.positions, "tokens", shard.tokens),
        ("entries", shard.entries, "positions times classes", shard.positions * header.num_classes),
    ):
        if count > most:
            return f"{count} {what}, expected at most {most} ({other})"
    return None


def _named(field: Field | None) -> str:
    return "none" if field is None else f"{field.name} {field.dtype}{[*field.shape]} of level {field.level}"
