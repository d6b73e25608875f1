"""Describe a cache from its manifest: no shard is opened, no torch imported, so it answers in under a second."""

from typing import Any

from kdcache.store.cache import read_manifest
from kdcache.store.files import Root

__all__ = ["describe", "render"]


def describe(path: str) -> dict[str, Any]:
    """Facts about a finished cache, ready for JSON. Raises CacheError for anything else."""
    manifest = read_manifest(Root(path))
    header, totals = manifest.header, manifest.totals
    text_bytes = header.corpus.bytes if header.corpus else None
    return {
        "path": path,
        "digest": manifest.digest(),
        "format_version": header.format_version,
        "backend": header.backend,
        "task": header.task,
        "teacher": header.teacher.model_dump() if header.teacher else None,
        "tokenizer": {"vocab_size": header.tokenizer.vocab_size} if header.tokenizer else None,
        "corpus": header.corpus.model_dump() if header.corpus else None,
        "num_classes": header.num_classes,
        "record": header.record.model_dump(mode="json") if header.record else None,
        "totals": totals.model_dump(),
        "entries_per_position": totals.entries / max(totals.positions, 1),
        "bytes_per_position": totals.bytes / max(totals.positions, 1),
        "corpus_bytes": text_bytes,
        "seed": header.seed,
        "libraries": header.libraries,
    }


def render(facts: dict[str, Any]) -> str:
    """The facts as lines for a person."""
    totals, teacher, record = facts["totals"], facts["teacher"], facts["record"]
    rows = [
        ("cache", f"{facts['path']} ({facts['backend']}, format {facts['format_version']}, {facts['digest'][:12]})"),
        ("task", _settings(facts["task"])),
        ("teacher", _teacher(teacher) if teacher else "none: labels only"),
        ("record", _settings(record) if record else "none"),
        ("classes", f"{facts['num_classes']:,}"),
        ("examples", f"{totals['examples']:,} in {totals['shards']:,} shards"),
        ("tokens", f"{totals['tokens']:,}"),
        ("positions", f"{totals['positions']:,} supervised"),
        (
            "size",
            f"{totals['bytes'] / 1e6:,.2f} MB, {facts['bytes_per_position']:.1f} bytes a position, tokens included",
        ),
    ]
    if record:
        rows.append(("entries", f"{facts['entries_per_position']:.1f} a position"))
    if facts["corpus"]:
        corpus = facts["corpus"]
        rows.append(("corpus", f"{corpus['rows']:,} rows in {corpus['files']} files, sha256 {corpus['sha256'][:12]}"))
    if totals["notes"]:
        rows.append(
            ("notes", ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in totals["notes"].items()))
        )
    return "\n".join(f"{name:<10} {value}" for name, value in rows)


def _teacher(teacher: dict[str, Any]) -> str:
    parts = [teacher["name"]]
    if teacher["parameters"]:
        parts.append(f"{teacher['parameters'] / 1e6:,.1f}M parameters")
    parts += [str(teacher[key]) for key in ("architecture", "dtype", "revision") if teacher[key]]
    if teacher["weights_sha256"]:
        parts.append(f"sha256 {teacher['weights_sha256'][:12]}")
    return ", ".join(parts)


def _settings(settings: dict[str, Any]) -> str:
    def spoken(value: Any) -> str:
        if isinstance(value, dict):
            return f"({_settings(value)})"
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    name = settings.get("name")
    rest = "; ".join(f"{key} {spoken(value)}" for key, value in settings.items() if key != "name" and value is not None)
    return f"{name}: {rest}" if name else rest
