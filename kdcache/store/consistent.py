"""What a header and a manifest say more than once has to agree: compared whenever one is read.

fields      those of the task and of the records, with the width of the features and the rank of the basis
basis       there if, and only if, a record is calibrated; its file is named by its digest
id2label    a name for every class
shards      counts that can be
totals      the sums over the shards; notes and scores are in the commit records, which `verify` reads
"""

from collections.abc import Iterator

import numpy as np

from kdcache.errors import CacheError, KdcacheError, one_line
from kdcache.store.limits import most_of
from kdcache.store.manifest import Header, Manifest, Totals
from kdcache.store.places import record_name
from kdcache.store.schema import check_task, task_fields
from kdcache.store.table import COUNTS, ROW, TABLE, Table, total
from kdcache.store.unit import EXAMPLES_PER_UNIT
from kdcache.targets.fields import Field, class_dtype
from kdcache.targets.records import calibrated_of

__all__ = ["check_header", "check_manifest", "check_table"]

BASIS_NAME = "basis-{}."
MOST_COUNT = (1 << 48) - 1


def check_header(header: Header, where: str, remedy: str) -> None:
    """Raises CacheError for a header that contradicts itself. remedy: what to do about it."""
    if fault := _header_fault(header):
        raise CacheError(f"{where} is damaged: {fault}; {remedy}")


def check_manifest(manifest: Manifest, where: str, remedy: str) -> None:
    """Raises CacheError for a manifest that contradicts itself. remedy: what to do about it."""
    shards, got = manifest.totals.shards, manifest.table.bytes
    fault = _header_fault(manifest.header)
    if fault is None and not shards * ROW <= got <= most_of(TABLE):
        fault = f"table: got {got} bytes, expected at least {ROW} for each of {shards} shards"
    if fault:
        raise CacheError(f"{where} is damaged: {fault}; {remedy}")


def check_table(manifest: Manifest, table: Table, where: str, remedy: str) -> None:
    """Raises CacheError for a table of shards that no cache has, or not the one of these totals."""
    if fault := _shards_fault(manifest.header, manifest.totals, table):
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


def _shards_fault(header: Header, totals: Totals, table: Table) -> str | None:
    for index, fault in _count_faults(header, table):
        return f"its row {index} has {fault}"
    sums = {name: total(table[name]) for name in COUNTS}
    found = [name for name, count in sums.items() if count != getattr(totals, name)]
    if not found:
        return None
    name = found[0]
    return f"its shards hold {sums[name]} {name}, where the totals of cache.json say {getattr(totals, name)}"


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


def _count_faults(header: Header, table: Table) -> Iterator[tuple[int, str]]:
    """(row, what is wrong with it) of counts that no shard can have, each kind once: negative or beyond 2⁴⁸, examples
    of no tokens, documents of none, more positions than tokens."""
    limits: list[tuple[str, str, np.ndarray | int]] = [
        *((name, "of a shard", MOST_COUNT) for name in COUNTS),
        ("examples", "in a unit", EXAMPLES_PER_UNIT),
        ("block_examples", "in a unit", EXAMPLES_PER_UNIT),
        ("record_bytes", "of a commit record", most_of(record_name(0))),
        ("examples", "documents", table["documents"]),
        ("documents", "tokens", table["tokens"]),
        ("positions", "tokens", table["tokens"]),
        (
            "entries",
            "positions times classes",
            np.minimum(table["positions"], 2**62 // header.num_classes) * header.num_classes,
        ),
    ]
    for name, least in (*((name, 0) for name in COUNTS), ("block_examples", 1), ("record_bytes", 1)):
        for index in np.flatnonzero(table[name] < least)[:1]:
            yield int(index), f"{table[name][index]} {name}, expected at least {least}"
    for name, other, most in limits:
        for index in np.flatnonzero(table[name] > most)[:1]:
            allowed = most if isinstance(most, int) else int(most[index])
            yield int(index), f"{table[name][index]} {name}, expected at most {allowed} ({other})"


def _named(field: Field | None) -> str:
    return "none" if field is None else f"{field.name} {field.dtype}{[*field.shape]} of level {field.level}"
