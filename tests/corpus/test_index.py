"""The index folder is a hint: it saves reads, and nothing depends on it."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from one_column import open_corpus

from kdcache.corpus import columnar, lines
from kdcache.corpus.index import Marks
from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import CorpusError


def opened(folder: Path, index: Path | None, format: str = "jsonl", pattern: str = "*") -> tuple[dict, list[str]]:
    """(pin, names of the files that were read in full)."""
    read: list[str] = []
    original = lines.chunks

    def spy(file, advance):
        read.append(file.name)
        return original(file, advance)

    with mock.patch.object(lines, "chunks", spy), mock.patch.object(columnar, "chunks", spy):
        corpus = open_corpus(CorpusConfig(paths=f"{folder}/{pattern}", format=format, unit_rows=2), index)
    for unit in range(corpus.num_units):
        corpus.unit(unit)
    return corpus.pin, sorted(read)


def fill(folder: Path, names: str, write, suffix: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.{suffix}").write_bytes(write([f"{name} {row}" for row in range(5)]))


def test_an_unchanged_file_is_not_read_again(tmp_path, written_briefly):
    format, suffix, write = written_briefly
    data, index = tmp_path / "data", tmp_path / "index"
    fill(data, "abc", write, suffix)
    first, read = opened(data, index, format)
    assert (len(read) == 3) or format == "arrow"
    assert opened(data, index, format) == (first, [])
    fill(data, "d", write, suffix)
    (data / f"b.{suffix}").write_bytes(write(["another text"]))
    changed, read = opened(data, index, format)
    assert read in ([f"b.{suffix}", f"d.{suffix}"], [])
    assert changed == opened(data, None, format)[0]
    assert changed != first


def test_a_file_that_was_only_touched_keeps_its_digest(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    first, _ = opened(tmp_path, tmp_path / "index", pattern="*.jsonl")
    os.utime(tmp_path / "a.jsonl", (1, 1))
    assert opened(tmp_path, tmp_path / "index", pattern="*.jsonl") == (first, ["a.jsonl"])


@pytest.mark.parametrize(
    "damage", ["truncated", "flipped", "gone", "marks gone", "marks short", "marks flipped", "old"]
)
def test_a_damaged_index_is_made_again(tmp_path, damage):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    index = tmp_path / "index"
    first, _ = opened(tmp_path, index, pattern="*.jsonl")
    (page,) = index.glob("*.index")
    (marks,) = index.glob("*.marks")
    if damage == "truncated":
        page.write_bytes(page.read_bytes()[:-9])
    elif damage == "flipped":
        page.write_bytes(page.read_bytes().replace(b'"rows": 2', b'"rows": 1'))
    elif damage == "gone":
        page.unlink()
    elif damage == "marks gone":
        marks.unlink()
    elif damage == "marks short":
        marks.write_bytes(marks.read_bytes()[:-1])
    elif damage == "marks flipped":
        marks.write_bytes(b"\1" + marks.read_bytes()[1:])
    else:
        page.write_text(json.dumps({"version": 0, "files": {}}))
    assert opened(tmp_path, index, pattern="*.jsonl") == (first, ["a.jsonl"])


def test_many_ranks_index_at_once(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for number in range(40):
        (data / f"{number}.jsonl").write_text(f'{{"text": "{number}"}}\n' * (number + 1))
    pins = []

    def rank() -> None:
        with mock.patch("kdcache.corpus.corpus.PAGE_BYTES", 200):
            pins.append(open_corpus(CorpusConfig(paths=str(data), format="jsonl"), tmp_path / "index").pin)

    threads = [threading.Thread(target=rank) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pins == [opened(data, None)[0]] * 4
    assert opened(data, tmp_path / "index") == (pins[0], [])
    assert not [path for path in (tmp_path / "index").iterdir() if path.name.startswith(".")]


def test_a_rank_takes_over_what_another_wrote_meanwhile(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for number in range(6):
        (data / f"{number}.jsonl").write_text('{"text": "a"}\n' * (number + 1))
    config = CorpusConfig(paths=str(data), format="jsonl")
    from kdcache.corpus import corpus as module

    original, read = module.index_lines, []

    def slow(file, advance):
        if not read:
            read.append(file.name)
            open_corpus(config, tmp_path / "index")
        else:
            read.append(file.name)
        return original(file, advance)

    with mock.patch.object(module, "PAGE_BYTES", 1), mock.patch.object(module, "index_lines", slow):
        corpus = open_corpus(config, tmp_path / "index")
    assert corpus.num_rows == 21
    assert len(read) == 1 + 6, "the inner rank reads all six, the outer one nothing after its first"


def test_a_folder_that_cannot_be_written_is_no_fault(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "index").write_text("a file where the folder should be")
    assert opened(tmp_path, tmp_path / "index", pattern="*.jsonl")[0]["rows"] == 1


def test_progress_counts_every_byte(tmp_path, written):
    format, suffix, write = written
    fill(tmp_path, "ab", write, suffix)
    calls: list[tuple[int, int]] = []
    pin = open_corpus(
        CorpusConfig(paths=str(tmp_path), format=format), None, lambda done, total: calls.append((done, total))
    ).pin
    assert calls[-1] == (pin["bytes"], pin["bytes"])
    assert calls == sorted(calls)


@pytest.mark.parametrize("longer", [True, False])
def test_a_file_that_changes_after_indexing_is_refused(tmp_path, written, longer):
    format, suffix, write = written
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(write(["a", "b"]))
    corpus = open_corpus(CorpusConfig(paths=str(path), format=format))
    content = path.read_bytes()
    path.write_bytes(content + b"\n" if longer else content[:-1])
    with pytest.raises(CorpusError, match=f"^a.{suffix} changed while it was being used"):
        corpus.unit(0)
    path.unlink()
    with pytest.raises(CorpusError, match=f"cannot read corpus file a.{suffix}: No such file"):
        corpus.unit(0)


def test_marks_thin_out_evenly():
    with mock.patch("kdcache.corpus.index.MAX_MARKS", 8):
        marks = Marks()
        for start in range(0, 100, 7):
            marks.add(np.arange(start, min(start + 7, 100)) * 10)
    assert marks.rows == 100
    assert marks.stride == 16
    assert marks.array().tolist() == [0, 160, 320, 480, 640, 800, 960]


def test_opening_does_not_import_torch():
    code = "import sys, kdcache.corpus; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
