"""The card of a cache on the Hub, README.md: what it holds, of what, and how to load it; no part of the cache.

Names in it are strangers' and become no Markdown. What nobody said of a licence stands there as not said.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from kdcache.errors import KdcacheError, as_code, in_markdown
from kdcache.store.backend import backend
from kdcache.store.manifest import Header, Manifest
from kdcache.targets.kind import RecordKind
from kdcache.tasks.registry import task_of

__all__ = ["CARD", "Licences", "card"]

CARD = "README.md"
SIZES = (
    *(("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7)),
    *(("10M<n<100M", 10**8), ("100M<n<1B", 10**9)),
)
"""What the Hub calls data sets with fewer examples than that."""
VIEWED = (".parquet", ".arrow")
"""How the names of files end that the Hub's viewer reads."""
TEMPERATURES = (0.25, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0)


@dataclass(frozen=True)
class Licences:
    """Names of licences, None where nobody said them."""

    cache: str | None = None
    teacher: str | None = None
    corpus: str | None = None


def card(manifest: Manifest, licences: Licences, url: str, path: str = "") -> bytes:
    """The bytes of the card.

    Args:
        manifest: Of the cache.
        licences: Of the cache, the teacher and the corpus.
        url: Where the cache is read.
        path: Of the cache in the repository.
    """
    front = yaml.safe_dump(_front(manifest, licences, path), sort_keys=False, allow_unicode=True)
    rows = "\n".join(f"| {name} | {value} |" for name, value in _rows(manifest, licences))
    text = f"""---
{front}---

# Teacher logits for distillation

A cache of [kdcache](https://pypi.org/project/kdcache/): a corpus as tokens, and what a teacher says at each of its
positions. Students train from it without the teacher, and every byte is checked by its digest.

| | |
|---|---|
{rows}

## Load it

```python
import kdcache

cache = kdcache.open_cache({url!r})
batch = cache.read(0, 8)          # tokens, labels and records of the first eight examples
targets = batch.targets()         # log_probs(T), entropy(T), weights(T), …
```

```sh
kdcache train train.yaml -o cache={url}
kdcache fetch {url} --out cache --digest {manifest.digest()[:12]}
kdcache verify cache
```

Give a commit as `@REVISION` to stay with it; the digest above says the same of every byte.
"""
    return text.encode()


def _front(manifest: Manifest, licences: Licences, path: str) -> dict[str, Any]:
    header, examples = manifest.header, manifest.totals.examples
    front: dict[str, Any] = {"license": licences.cache} if licences.cache else {}
    if (category := _category(header)) is not None:
        front["task_categories"] = [category]
    front["tags"] = ["kdcache", "knowledge-distillation", "logits"]
    front["size_categories"] = [next((name for name, most in SIZES if examples < most), "n>1B")]
    suffix = backend(header.backend).suffix
    if suffix.endswith(VIEWED):
        files = f"{path}/shards/*/*{suffix}".lstrip("/")
        return front | {"configs": [{"config_name": "default", "data_files": files}]}
    return front | {"viewer": False}


def _category(header: Header) -> str | None:
    """What the Hub calls the task; None of one that is not registered here."""
    try:
        return task_of(header.task).pipeline
    except (KdcacheError, ValueError):
        return None


def _rows(manifest: Manifest, licences: Licences) -> Iterator[tuple[str, str]]:
    header, totals, corpus = manifest.header, manifest.totals, manifest.corpus
    yield "cache (sha256 of cache.json)", f"`{manifest.digest()}`"
    for kind in header.records:
        yield "record", in_markdown(kind.words)
    yield "temperatures that it answers", _temperatures(header.distribution)
    yield "bytes per position", f"{totals.bytes / max(totals.positions, 1):.1f}, tokens included"
    yield "task", in_markdown(header.task.get("name", ""))
    yield "examples", f"{totals.examples:,} in {totals.shards:,} shards"
    yield "tokens, positions", f"{totals.tokens:,}, of which {totals.positions:,} are supervised"
    yield "size", f"{totals.bytes / 1e6:,.2f} MB, {in_markdown(header.backend)}"
    yield "classes", f"{header.num_classes:,}"
    yield from _teacher(header)
    yield "licence of the teacher", _said(licences.teacher)
    if corpus is None:
        yield "corpus", "not named"
    else:
        yield "corpus", f"{corpus.rows:,} rows, {corpus.bytes:,} bytes, sha256 `{corpus.sha256}`"
    yield "licence of the corpus", _said(licences.corpus)
    if header.tokenizer is not None:
        pin = header.tokenizer
        yield "tokenizer", f"{pin.vocab_size:,} ids, its files are in the cache, identity `{pin.behaviour_sha256}`"
    yield "licence of this cache", _said(licences.cache)


def _teacher(header: Header) -> Iterator[tuple[str, str]]:
    teacher = header.teacher
    if teacher is None:
        yield "teacher", "not named" if header.records else "none: labels only"
        return
    parts = [in_markdown(teacher.name)]
    parts += [f"revision {in_markdown(teacher.revision)}"] if teacher.revision else []
    parts += [in_markdown(teacher.architecture)] if teacher.architecture else []
    parts += [f"{teacher.parameters:,} parameters"] if teacher.parameters else []
    parts += [in_markdown(teacher.dtype)] if teacher.dtype else []
    yield "teacher", ", ".join(parts)
    yield "teacher's weights (sha256)", as_code(teacher.weights_sha256) if teacher.weights_sha256 else "not known"


def _temperatures(kind: RecordKind | None) -> str:
    """Those of the common ones, and of the record's own settings, that it answers."""
    if kind is None:
        return "none: it has no teacher's distribution"
    own = _numbers({key: value for key, value in kind.model_dump().items() if value is not None})
    answered = [t for t in sorted({*TEMPERATURES, *own}) if kind.answers(t)]
    if {*TEMPERATURES} <= {*answered}:
        return "every one; `kdcache inspect --temperature T` says how well"
    return ", ".join(f"{t:g}" for t in answered) or "none"


def _numbers(settings: Any) -> Iterator[float]:
    """The numbers of settings that are called temperatures."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            if "temperature" in key and value is not None:
                yield from map(float, value if isinstance(value, list | tuple) else [value])
            else:
                yield from _numbers(value)


def _said(licence: str | None) -> str:
    return "not said" if licence is None else in_markdown(licence)
