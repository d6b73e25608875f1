"""Describe a cache from its manifest: no shard is opened, no torch imported, so it answers in under a second.

With temperatures, the first shard's records are asked too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from kdcache.errors import CacheError, printable
from kdcache.progress import counted
from kdcache.store.cache import open_cache, read_manifest
from kdcache.store.files import Root
from kdcache.store.score import teacher_verdict

__all__ = ["describe", "render"]

OF_A_TEACHER = ("parameters", "architecture", "dtype", "revision", "weights_sha256")


def describe(path: str, temperatures: Sequence[float] = ()) -> dict[str, Any]:
    """Facts about a finished cache, ready for JSON. Raises CacheError for anything else."""
    manifest = read_manifest(Root(path))
    header, totals = manifest.header, manifest.totals
    text_bytes = manifest.corpus.bytes if manifest.corpus else None
    verdict = teacher_verdict(manifest)
    return {
        "path": path,
        "digest": manifest.digest(),
        "format_version": header.format_version,
        "backend": header.backend,
        "task": header.task,
        "teacher": header.teacher.model_dump() if header.teacher else None,
        "tokenizer": {"vocab_size": header.tokenizer.vocab_size} if header.tokenizer else None,
        "corpus": manifest.corpus.model_dump() if manifest.corpus else None,
        "num_classes": header.num_classes,
        "labels": header.class_names or None,
        "records": [kind.model_dump(mode="json") for kind in header.records],
        "record_words": [kind.words for kind in header.records],
        "import": header.compute.get("import"),
        "totals": totals.model_dump(exclude={"score"}),
        "score": None if verdict is None else {**verdict.figures, "line": verdict.line, "warnings": verdict.warnings},
        "entries_per_position": totals.entries / max(totals.positions, 1),
        "bytes_per_position": totals.bytes / max(totals.positions, 1),
        "corpus_bytes": text_bytes,
        "seed": header.seed,
        "libraries": header.libraries,
        "sources": [pin.model_dump(mode="json", exclude_none=True) for pin in header.sources or ()],
        "temperatures": _worth(path, temperatures) if temperatures else [],
    }


def _worth(path: str, temperatures: Sequence[float]) -> list[dict[str, Any]]:
    from kdcache.targets.noise import worth_at

    cache = open_cache(path)
    if cache.manifest.header.distribution is None:
        raise CacheError(f"{path} holds labels and no teacher, expected records for --temperature")
    shards = (cache.read_shard(shard) for shard in range(len(cache.shard_examples)))
    batch = next((batch for batch in shards if batch.num_positions), None)
    if batch is None:
        raise CacheError(f"{path} has no supervised position, expected at least one for --temperature")
    targets = batch.targets()[:4096]
    return [asdict(worth_at(targets, temperature)) for temperature in temperatures]


def render(facts: dict[str, Any]) -> str:
    """The facts as lines for a person."""
    totals, teacher, records = facts["totals"], facts["teacher"], facts["record_words"]
    rows = [
        ("cache", f"{facts['path']} ({facts['backend']}, format {facts['format_version']})"),
        ("sha256", facts["digest"]),
        ("task", _settings(facts["task"])),
        ("teacher", _teacher(teacher) if teacher else "not named" if records else "none: labels only"),
        *(("record", words) for words in records or ["none"]),
        *([("imported", _imported(facts["import"]))] if facts["import"] else []),
        ("classes", ", ".join(facts["labels"]) if facts["labels"] else f"{facts['num_classes']:,}"),
        ("examples", f"{totals['examples']:,} in {counted(totals['shards'], 'shard')}"),
        ("tokens", f"{totals['tokens']:,}"),
        ("positions", f"{totals['positions']:,} supervised"),
        (
            "size",
            f"{totals['bytes'] / 1e6:,.2f} MB, {facts['bytes_per_position']:.1f} bytes per position, tokens included",
        ),
    ]
    if totals["entries"]:
        rows.append(("entries", f"{facts['entries_per_position']:.1f} per position"))
    if facts["corpus"]:
        corpus = facts["corpus"]
        counts = f"{counted(corpus['rows'], 'row')} in {counted(corpus['files'], 'file')}"
        rows.append(("corpus", f"{counts}, sha256 {corpus['sha256'][:12]}"))
    rows += [("made of", words) for source in facts["sources"] for words in _source(source, totals["examples"])]
    if totals["notes"]:
        rows.append(
            ("notes", ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in totals["notes"].items()))
        )
    if facts["score"]:
        rows.append(("score", f"{facts['score']['line']}, of the teacher"))
        rows += [("warning", warning) for warning in facts["score"]["warnings"]]
    lines = [f"{name:<10} {printable(value)}" for name, value in rows]
    if facts["temperatures"]:
        lines += ["", "temperature   in entries   outside the certain   effective samples   gradient noise"]
        lines += [
            f"{worth['temperature']:>11g} {worth['coverage']:>12.1%} {worth['tail_mass']:>21.1%} "
            f"{_number(worth['effective_samples']):>19} {worth['gradient_noise']:>16.3g}"
            for worth in facts["temperatures"]
        ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _teacher(teacher: dict[str, Any]) -> str:
    parts = [teacher["name"]]
    if teacher["parameters"]:
        parts.append(f"{teacher['parameters'] / 1e6:,.1f}M parameters")
    parts += [str(teacher[key]) for key in ("architecture", "dtype", "revision") if teacher[key]]
    if teacher["weights_sha256"]:
        parts.append(f"sha256 {teacher['weights_sha256'][:12]}")
    if teacher.get("prefix_sha256"):
        parts.append(f"it alone saw a prefix of sha256 {teacher['prefix_sha256'][:12]}")
    if teacher.get("messages_field"):
        parts.append(f"it was told the chats of the column {teacher['messages_field']}")
    return ", ".join(parts)


def _source(source: dict[str, Any], examples: int, depth: int = 0) -> Iterator[str]:
    """A line for a cache that this one was made of, and one for each that it was made of itself."""
    teacher, where = source.get("teacher"), source.get("where")
    shards = counted(source["shards"], "shard")
    parts = [f"{'  ' * depth}{source['cache_sha256'][:12]}: {counted(source['examples'], 'example')} in {shards}"]
    parts += [f"teacher {_teacher({**dict.fromkeys(OF_A_TEACHER), **teacher})}"] if teacher else []
    corpus = source.get("corpus")
    parts += [f"corpus of {counted(corpus['rows'], 'row')}, sha256 {corpus['sha256'][:12]}"] if corpus else []
    kept = f"{examples:,} of them" if depth == 0 else "those"
    parts += [f"{kept} where {where}"] if where is not None else []
    parts += [f"weight {source['weight']:.4g}"] if "weight" in source else []
    yield ", ".join(parts)
    for own in source.get("sources", ()):
        yield from _source(own, examples, depth + 1)


def _imported(facts: dict[str, Any]) -> str:
    answers = ", ".join(f"{temperature:g}" for temperature in facts["answers"]) or "none of 0.5, 1, 2 and 4"
    missing = ", ".join(name.replace("_", " ") for name in facts["missing"])
    return f"from {facts['format']}; answers temperature {answers}{f'; without {missing}' if missing else ''}"


def _settings(settings: dict[str, Any]) -> str:
    def spoken(value: Any) -> str:
        if isinstance(value, dict):
            return f"({_settings(value)})"
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    name = settings.get("name")
    rest = "; ".join(f"{key} {spoken(value)}" for key, value in settings.items() if key != "name" and value is not None)
    return f"{name}: {rest}" if name else rest
