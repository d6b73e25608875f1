"""CacheWriter: what goes in comes out, nothing half-written counts, and interrupted or not the bytes are the same."""

import hashlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from store.forging import forge
from store.making import CLASSES, tokens_and_logits, tree, write_cache

from kdcache import CacheWriter, compress, open_cache
from kdcache.errors import CacheError, ConfigError, TeacherError
from kdcache.store.builder import CacheBuilder
from kdcache.store.checked import checked_example
from kdcache.store.manifest import CommitRecord, Header, canonical, parse
from kdcache.store.schema import task_fields
from kdcache.store.tokenizer_files import pin_tokenizer
from kdcache.store.unit import Unit
from kdcache.targets.compress import compress_to_arrays
from kdcache.targets.dense import Dense
from kdcache.targets.kind import RecordKind
from kdcache.targets.recorder import Recorder
from kdcache.targets.sampled import Sampled
from kdcache.targets.teacher_rows import TeacherRows
from kdcache.tasks import task_of
from kdcache.tasks.tokenizer import tokenizer_digest

SPECS = [Sampled(exact_top_k=5), Dense(), None]


def label_only_header(backend: str = "arrow", **changes: object) -> Header:
    task = {"name": "causal_lm", "attention": "document"}
    settings = {"backend": backend, "task": task, "records": (), "num_classes": CLASSES, "seed": 0}
    return Header(**{**settings, "fields": task_fields(task_of({}), CLASSES, CLASSES), **changes})


def commit_all(writer: CacheBuilder, units: list[int]) -> None:
    for index in units:
        with writer.unit(index, source_sha256=f"{index:064x}") as unit:
            for tokens, _ in tokens_and_logits(3, seed=index):
                unit.add(tokens)


@pytest.mark.parametrize("spec", SPECS, ids=["sparse", "dense", "label-only"])
@pytest.mark.parametrize("url", ["{}", "file://{}", "memory://{}"])
def test_what_goes_in_comes_out(tmp_path: Path, backend_name: str, spec: RecordKind | None, url: str) -> None:
    path = url.format(tmp_path / "cache")
    write_cache(path, 10, backend=backend_name, record=spec)
    examples = tokens_and_logits(10)
    cache = open_cache(path, local_cache=tmp_path / "copies")
    assert len(cache) == 10
    assert cache.shard_examples.tolist() == [4, 4, 2]
    batch = cache.read(0, 10)
    assert cache.num_positions == batch.num_positions == sum(len(logits) for _, logits in examples)
    for i, (tokens, _) in enumerate(examples):
        assert batch.tokens(i).tolist() == tokens.tolist()
    if spec is not None:
        keys = [[0, (i // 4) * 2**20 + i % 4, p] for i, (_, z) in enumerate(examples) for p in range(len(z))]
        logits_PV = torch.from_numpy(np.concatenate([z for _, z in examples]))
        expected, got = compress(logits_PV, spec, keys), batch.targets()
        assert torch.equal(got.ids_PE, expected.ids_PE)
        assert torch.equal(got.logits_PE, expected.logits_PE)
        assert torch.equal(got.log_partition(1.0), expected.log_partition(1.0))


def test_masked_positions_and_packed_documents(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with CacheWriter(tmp_path / "cache", num_classes=CLASSES, record=Sampled(exact_top_k=3)) as writer:
        logits = rng.normal(size=(3, CLASSES))
        writer.add([1, 2, 3, 4, 5, 6], logits, positions=[0, 3, 4], labels=[2, 5, 6], documents=[4, 2])
        writer.add(torch.tensor([7, 8]), logits[:0], positions=[])
        writer.add(torch.tensor([7, 8]), torch.tensor(logits[:1], dtype=torch.bfloat16))
    batch = open_cache(tmp_path / "cache").read(0, 3)
    assert [batch.positions(i).tolist() for i in range(3)] == [[0, 3, 4], [], [0]]
    assert [batch.documents(i).tolist() for i in range(3)] == [[4, 2], [2], [2]]
    assert batch.labels.tolist() == [2, 5, 6, 8]
    top = logits[:3].argmax(-1)
    assert batch.targets().ids_PE[:3, 0].tolist() == top.tolist()
    np.testing.assert_allclose(batch.targets().logits_PE[:3, 0], logits.max(-1), rtol=1e-6, atol=2**-13)


@given(
    st.lists(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=6), min_size=1, max_size=7), st.integers(1, 4)
)
def test_any_examples_in_shards_of_any_size(tmp_path_factory, examples: list[list[int]], per_shard: int) -> None:
    path = tmp_path_factory.mktemp("any") / "cache"
    with CacheWriter(path, num_classes=CLASSES, record=None, backend="arrow", examples_per_shard=per_shard) as writer:
        for tokens in examples:
            writer.add(tokens)
    cache = open_cache(path)
    whole = cache.read(0, len(cache))
    assert [whole.tokens(i).tolist() for i in range(len(whole))] == examples
    assert cache.manifest.totals.tokens == sum(map(len, examples))


def test_records_may_come_in_blocks_that_cross_examples() -> None:
    spec, examples = Sampled(exact_top_k=4), tokens_and_logits(6)
    header = label_only_header(records=(spec,), fields=task_fields(task_of({}), CLASSES, CLASSES, (spec,)))
    one, blocks = Unit(header, 0), Unit(header, 0)
    for tokens, logits in examples:
        one.add(tokens, logits)
        blocks.add_example(checked_example(header, tokens))
    logits_PV = torch.from_numpy(np.concatenate([logits for _, logits in examples]))
    labels_P = np.concatenate([tokens[1:] for tokens, _ in examples])
    keys_P3 = np.array([[0, i, p] for i, (_, z) in enumerate(examples) for p in range(len(z))])
    with pytest.raises(CacheError, match=rf"got 0 records in unit 0, expected {len(labels_P)}, one per position"):
        blocks.arrays()
    for part in (slice(0, 7), slice(7, 8), slice(8, None)):
        blocks.add_record(compress_to_arrays(logits_PV[part], spec, keys_P3[part], labels_P[part]))
    assert {k: v.tobytes() for k, v in one.arrays().items()} == {k: v.tobytes() for k, v in blocks.arrays().items()}


def test_records_are_keyed_by_seed_example_and_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random draws must not depend on how examples are batched: example number = unit · 2²⁰ + index in the unit."""
    spec, keys = Sampled(exact_top_k=4), []

    def spy(self: Recorder, rows: TeacherRows) -> dict[str, np.ndarray]:
        keys.extend(rows.keys_P3.tolist())
        return plain(self, rows)

    plain = Recorder.arrays
    monkeypatch.setattr(Recorder, "arrays", spy)
    header = label_only_header(records=(spec,), fields=task_fields(task_of({}), CLASSES, CLASSES, (spec,)), seed=7)
    unit = Unit(header, 3)
    unit.add(checked_example(header, [1, 2, 3, 4], positions=[0, 2]), np.zeros((2, CLASSES)))
    unit.add([1, 2], np.zeros((1, CLASSES)))
    assert keys == [[7, 3 * 2**20, 0], [7, 3 * 2**20, 2], [7, 3 * 2**20 + 1, 0]]


def test_a_label_far_below_the_maximum_keeps_a_finite_logit() -> None:
    logits_PV = torch.zeros(1, CLASSES)
    logits_PV[0, 3] = -1e6
    arrays = compress_to_arrays(logits_PV, Sampled(exact_top_k=4), None, [3])
    assert arrays["label_logits"].tolist() == [-65504.0]


ROW = np.zeros((1, CLASSES), np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": [1, 2], "logits": None}, "got no logits with an example, expected logits"),
        ({"tokens": [], "logits": ROW[:0]}, "got an example of no tokens, expected at least one"),
        ({"tokens": [1, -2], "logits": ROW}, "got token ids -2 to 1, expected 0 to 65535"),
        ({"tokens": [1.5, 2.0], "logits": ROW}, r"got tokens float64\[2\], expected a flat array of integers"),
        ({"tokens": [[1, 2]], "logits": ROW}, r"got tokens int64\[1, 2\], expected a flat array of integers"),
        ({"tokens": [1, 2], "logits": ROW, "positions": [1]}, "got positions 1, expected them ascending from 0 to 0"),
        ({"tokens": [1, 2, 3], "logits": ROW, "positions": [1, 0]}, "got positions 1, 0, expected them ascending"),
        ({"tokens": [1, 2], "logits": ROW, "labels": [1]}, r"got labels that are not tokens\[positions \+ 1\]"),
        ({"tokens": [1, 40], "logits": ROW}, "got labels 40 to 40, expected class ids from 0 to 39"),
        ({"tokens": [1, 2], "logits": ROW, "documents": [1]}, "got document lengths 1, expected ones above 0 that sum"),
        ({"tokens": [1, 2], "logits": ROW, "documents": [2, 0]}, "got document lengths 2, 0, expected ones above 0"),
        ({"tokens": [1, 2, 3], "logits": ROW}, r"got logits float32\[1, 40\], expected floats \[2, 40\]: one row per"),
        ({"tokens": [1, 2], "logits": ROW[:, :9]}, r"got logits float32\[1, 9\], expected floats \[1, 40\]"),
        ({"tokens": [1, 2], "logits": ROW.astype(int)}, r"got logits int64\[1, 40\], expected floats \[1, 40\]"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path: Path, arguments: dict, message: str) -> None:
    writer = CacheWriter(tmp_path / "cache", num_classes=CLASSES)
    with pytest.raises(CacheError, match=message):
        writer.add(arguments.pop("tokens"), arguments.pop("logits"), **arguments)


def test_logits_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path / "cache", num_classes=CLASSES)
    with pytest.raises(TeacherError, match="NaN or infinite logits"):
        writer.add([1, 2], np.where(np.arange(CLASSES) == 3, np.nan, 0.0)[None])


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="got task 'ner', which is not known; expected one of causal_lm, sequence"):
        CacheWriter(tmp_path, num_classes=CLASSES, task={"name": "ner"})
    with pytest.raises(CacheError, match=r"got task .*'attention': 'both'\}: attention: Input should be"):
        CacheWriter(tmp_path, num_classes=CLASSES, task={"attention": "both"})
    with pytest.raises(CacheError, match="cannot be written: num_classes: Input should be greater than 0"):
        CacheWriter(tmp_path, num_classes=0)
    with pytest.raises(ConfigError, match="got backend 'hdf5', which is not known; expected one of zarr, arrow"):
        CacheWriter(tmp_path, num_classes=CLASSES, backend="hdf5")
    with pytest.raises(CacheError, match="got examples_per_shard 0, expected 1 to 1048576"):
        CacheWriter(tmp_path, num_classes=CLASSES, examples_per_shard=0)


def test_a_classification_of_another_engine(tmp_path: Path) -> None:
    """One position an example, dense records by default, labels that may not be known, features."""
    logits_BC = np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)
    record = [Dense(logit_dtype="float32"), {"kind": "features", "at": "pooled"}]
    settings = {"num_classes": 2, "task": {"name": "sequence_classification"}, "labels": ["no", "yes"]}
    with CacheWriter(tmp_path / "cache", record=record, features=3, **settings) as writer:
        for tokens, label, row in (([5, 6, 7], 1, logits_BC[:1]), ([8, 9], -100, logits_BC[1:])):
            writer.add(tokens, row, labels=[label], features=np.full((1, 3), label))
    batch = open_cache(tmp_path / "cache").read(0, 2)
    assert batch.labels.tolist() == [1, -100]
    assert [batch.positions(i).tolist() for i in range(2)] == [[0], [0]]
    assert batch.features is not None
    assert batch.features[:, 0].tolist() == [1, -100]
    np.testing.assert_allclose(batch.targets().logits_PE, logits_BC, rtol=1e-6)
    plain = CacheWriter(tmp_path / "plain", **settings)
    assert plain.header.records == (Dense(),)
    for arguments, message in (
        ({"labels": [2]}, "got labels 2 to 2, expected class ids from 0 to 1, or -100 where there is none"),
        ({}, "got no labels, expected one per position for task sequence_classification"),
        ({"labels": [0], "features": np.zeros((1, 3))}, "got features with an example, expected none"),
    ):
        with pytest.raises(CacheError, match=message):
            plain.add([5, 6], logits_BC[:1], **arguments)
    with pytest.raises(CacheError, match="got 1 labels, expected 2, a name for each class"):
        CacheWriter(tmp_path / "other", **{**settings, "labels": ["no"]})


def test_a_failing_block_commits_nothing(tmp_path: Path) -> None:
    writer = CacheBuilder(tmp_path / "cache", label_only_header())

    def fail() -> None:
        with writer.unit(0) as unit:
            unit.add([1, 2])
            raise RuntimeError("teacher fell over")

    with pytest.raises(RuntimeError, match="teacher fell over"):
        fail()
    assert writer.committed() == set()
    assert [*tree(tmp_path / "cache")] == ["header.json"]


def test_finalize_needs_every_unit_and_no_other(tmp_path: Path) -> None:
    writer = CacheBuilder(tmp_path / "cache", label_only_header())
    commit_all(writer, [0, 3])
    with pytest.raises(CacheError, match="is not finished: 2 of 4 units are missing, the first is 1"):
        writer.finalize(4)
    commit_all(writer, [1, 2])
    with pytest.raises(CacheError, match="holds unit 3, expected 3 units"):
        writer.finalize(3)
    assert writer.finalize(4).totals.shards == 4


def test_whoever_writes_and_finalizes_the_bytes_are_the_same(tmp_path: Path, backend_name: str) -> None:
    header = label_only_header(backend_name)
    alone = CacheBuilder(tmp_path / "alone", header)
    commit_all(alone, [0, 1, 2, 3, 4])
    alone.finalize(5)
    first, second = (CacheBuilder(tmp_path / "shared", header) for _ in range(2))
    commit_all(second, [3, 1])
    commit_all(first, [4, 0, 2])
    assert first.committed() == second.committed() == {0, 1, 2, 3, 4}
    second.finalize(5)
    after_one = tree(tmp_path / "shared")
    first.finalize(5)
    assert tree(tmp_path / "shared") == after_one == tree(tmp_path / "alone")


def without_shard(folder: Path) -> None:
    (folder / "shards/000/000001.arrow").unlink()


def shorter_shard(folder: Path) -> None:
    path = folder / "shards/000/000001.arrow"
    path.write_bytes(path.read_bytes()[:-1])


def without_record(folder: Path) -> None:
    (folder / "shards/000/000001.json").unlink()


def half_a_record(folder: Path) -> None:
    path = folder / "shards/000/000001.json"
    path.write_bytes(path.read_bytes()[:40])


def record_of_another_unit(folder: Path) -> None:
    shutil.copy(folder / "shards/000/000000.json", folder / "shards/000/000001.json")


def record_of_another_header(folder: Path) -> None:
    path = folder / "shards/000/000001.json"
    record = parse(CommitRecord, path.read_bytes(), "")
    path.write_bytes(canonical(record.model_copy(update={"header_sha256": "0" * 64})))


@pytest.mark.parametrize(
    "damage",
    [without_shard, shorter_shard, without_record, half_a_record, record_of_another_unit, record_of_another_header],
)
def test_a_shard_without_a_valid_commit_record_does_not_exist(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Also of a finished cache: running the dump again repairs it."""
    folder = tmp_path / "cache"
    writer = CacheBuilder(folder, label_only_header())
    commit_all(writer, [0, 1, 2])
    writer.finalize(3)
    sound = tree(folder)
    damage(folder)
    again = CacheBuilder(folder, label_only_header())
    assert [commit.unit for commit in again.commits()] == [0, 2]
    commit_all(again, [1])
    again.finalize(3)
    assert tree(folder) == sound


KILLED = """
import os, signal, sys
from kdcache.store.manifest import Header
from kdcache.store.builder import CacheBuilder
folder, header, steps = sys.argv[1], Header.model_validate_json(sys.argv[2]), int(sys.argv[3])
def killing(call):
    def wrapped(*arguments):
        global steps
        steps -= 1
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)
    return wrapped
os.fsync, os.replace = killing(os.fsync), killing(os.replace)
writer = CacheBuilder(folder, header)
for index in {0, 1, 2} - writer.committed():
    with writer.unit(index) as unit:
        unit.add([index, 1, 2])
writer.finalize(3)
"""


def test_a_sound_commit_record_stays_where_its_shard_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the shard cannot be written: nothing that is whole is lost by a repair."""
    with CacheBuilder(tmp_path, label_only_header()) as builder:
        commit_all(builder, [0])
        (shard,) = tmp_path.glob("shards/000/*.arrow")
        record, data = shard.with_suffix(".json"), shard.read_bytes()
        before = record.read_bytes()
        shard.unlink()

        def full(name: str, data: bytes) -> None:
            raise CacheError("no room")

        with monkeypatch.context() as patch:
            patch.setattr(builder.root, "write", full)
            with pytest.raises(CacheError, match="no room"):
                commit_all(builder, [0])
        assert (record.read_bytes(), builder.committed()) == (before, set())
        commit_all(builder, [0])
        assert (record.read_bytes(), shard.read_bytes()) == (before, data)
        assert builder.committed() == {0}


def test_killed_at_any_step_the_next_run_ends_the_same(tmp_path: Path) -> None:
    """SIGKILL at the n-th fsync or rename of six runs; a file takes three, there are eight."""
    header = label_only_header().model_dump_json()

    def run(folder: str, steps: int) -> int:
        command = [sys.executable, "-c", KILLED, str(tmp_path / folder), header, str(steps)]
        return subprocess.run(command, env={"PYTHONPATH": ":".join(sys.path)}, timeout=60).returncode

    assert run("undisturbed", 0) == 0
    codes = [run("killed", steps) for steps in (1, 2, 5, 8, 7, 0)]
    assert codes == [-signal.SIGKILL] * 5 + [0]
    assert tree(tmp_path / "killed") == tree(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 7}, "was begun with seed 0, got 7: use the same settings to go on, or use another output folder"),
        ({"record": Sampled(exact_top_k=9)}, "was begun with records.sampled.exact_top_k 5, got 9"),
        ({"task": {"name": "causal_lm", "attention": "causal"}}, "was begun with task.attention document, got causal"),
        ({"teacher": "big"}, r"was begun with teacher None, got \{'name': 'big', .*…: use"),
        ({"examples_per_shard": 5}, "was begun with compute.examples_per_shard 4, got 5"),
        ({"resume": False}, "already holds a cache, expected a new folder, or resume=True"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_header_is_refused(
    cache_folder: Path, backend_name: str, finished: bool, settings: dict, message: str
) -> None:
    if not finished:
        (cache_folder / "cache.json").unlink()
    before = tree(cache_folder)
    same = {"record": Sampled(exact_top_k=5), "backend": backend_name, "examples_per_shard": 4, "block_examples": 3}
    with pytest.raises(CacheError, match=message):
        CacheWriter(cache_folder, num_classes=CLASSES, **same | settings)
    assert tree(cache_folder) == before


def add_until(path: Path, stop: int | None, asked: list[int], seed: int = 0) -> None:
    """Add 10 examples, or raise at number `stop`; `asked` collects the examples whose logits were called for."""
    with CacheWriter(path, num_classes=CLASSES, record=Sampled(exact_top_k=5), examples_per_shard=4) as writer:
        for i, (tokens, logits) in enumerate(tokens_and_logits(10, seed)):
            if i == stop:
                raise RuntimeError("stop")
            writer.add(tokens, lambda i=i, logits=logits: asked.append(i) or logits)


def test_adding_again_after_a_crash_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    asked: list[int] = []
    with pytest.raises(RuntimeError, match="stop"):
        add_until(tmp_path / "cache", 6, asked)
    assert not (tmp_path / "cache" / "cache.json").exists()
    with pytest.raises(CacheError, match="was made of other examples, expected the same in the same order"):
        add_until(tmp_path / "cache", None, [], seed=1)
    asked.clear()
    add_until(tmp_path / "cache", None, asked)
    assert asked == [4, 5, 6, 7, 8, 9]
    add_until(tmp_path / "undisturbed", None, [])
    assert tree(tmp_path / "cache") == tree(tmp_path / "undisturbed")


def test_fewer_examples_than_an_earlier_run_are_refused(cache_folder: Path, backend_name: str) -> None:
    with pytest.raises(CacheError, match="holds unit 2, expected 2 units"):
        write_cache(cache_folder, 8, backend=backend_name)


def test_a_cache_without_its_header_is_not_written_over(cache_folder: Path) -> None:
    (cache_folder / "header.json").unlink()
    with pytest.raises(CacheError, match=r"holds a cache without its header\.json"):
        write_cache(cache_folder)


def test_a_writer_that_got_nothing_finalizes_nothing(tmp_path: Path) -> None:
    with CacheWriter(tmp_path / "cache", num_classes=CLASSES):
        pass
    with pytest.raises(CacheError, match="is not finished: 0 units committed"):
        open_cache(tmp_path / "cache")


def make_tokenizer(folder: Path, model: object) -> Path:
    """A folder with a tokenizer of ids 0 to 319 and files that are not the tokenizer's."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.add_special_tokens(["<|end|>"])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize(
    "model",
    [
        tokenizers.models.WordLevel({f"w{i}": i for i in range(319)}, unk_token="w0"),
        tokenizers.models.Unigram([(f"w{i}", -1.0) for i in range(319)], unk_id=0),
    ],
)
def test_the_tokenizer_goes_along(tmp_path: Path, model: object) -> None:
    folder = make_tokenizer(tmp_path / "tokenizer", model)
    with CacheWriter(tmp_path / "cache", num_classes=320, record=None, tokenizer=folder) as writer:
        writer.add([319, 5])
        with pytest.raises(CacheError, match="got token ids 5 to 320, expected 0 to 319"):
            writer.add([5, 320])
    cache = open_cache(tmp_path / "cache")
    pin = cache.manifest.header.tokenizer
    assert pin is not None
    assert pin.vocab_size == 320
    assert [*pin.files] == ["tokenizer.json", "tokenizer_config.json"]
    cache.save_tokenizer(tmp_path / "copy")
    for name in pin.files:
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()
    (tmp_path / "cache/tokenizer/tokenizer.json").write_text("{}")
    with pytest.raises(CacheError, match=r"tokenizer/tokenizer.json has sha256 .*; run kdcache verify .* --repair"):
        cache.save_tokenizer(tmp_path / "copy")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"has no tokenizer\.json, expected one"):
        CacheWriter(tmp_path / "cache", num_classes=320, tokenizer=tmp_path)


def test_a_tokenizer_is_the_same_whatever_its_folder(tmp_path: Path) -> None:
    from helpers import make_tokenizer
    from transformers import AutoTokenizer

    make_tokenizer(tmp_path / "one")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one")
    tokenizer("a b c", truncation=True, max_length=2, padding="max_length")
    tokenizer.save_pretrained(tmp_path / "two")
    config = tmp_path / "two" / "tokenizer_config.json"
    config.write_text(config.read_text() + "\n")
    one, two = pin_tokenizer(tmp_path / "one"), pin_tokenizer(tmp_path / "two")
    assert one.files != two.files
    assert one.behaviour_sha256 == two.behaviour_sha256 == tokenizer_digest(tokenizer)
    tokenizer.add_tokens(["quux"])
    tokenizer.save_pretrained(tmp_path / "three")
    three = pin_tokenizer(tmp_path / "three")
    assert three.behaviour_sha256 != one.behaviour_sha256
    assert three.vocab_size == one.vocab_size + 1 == 321


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "modeling_evil.py", "README.md"])
def test_a_cache_cannot_bring_files_that_are_not_its_tokenizers(tmp_path: Path, name: str) -> None:
    folder = make_tokenizer(tmp_path / "tokenizer", tokenizers.models.WordLevel({"w0": 0}, unk_token="w0"))
    with CacheWriter(tmp_path / "cache", num_classes=2, record=None, tokenizer=folder) as writer:
        writer.add([0, 1])
    (tmp_path / "cache/tokenizer" / name).write_bytes(b"evil")
    pin = {name: hashlib.sha256(b"evil").hexdigest()}
    forge(tmp_path / "cache", lambda values: values["header"]["tokenizer"]["files"].update(pin))
    with pytest.raises(CacheError, match=f"got tokenizer file '{name}', expected one that tokenizers save"):
        open_cache(tmp_path / "cache").save_tokenizer(tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_a_tokenizer_that_names_code_is_not_saved(tmp_path: Path) -> None:
    folder = make_tokenizer(tmp_path / "tokenizer", tokenizers.models.WordLevel({"w0": 0}, unk_token="w0"))
    with CacheWriter(tmp_path / "cache", num_classes=2, record=None, tokenizer=folder) as writer:
        writer.add([0, 1])
    data = b'{"auto_map": {"AutoTokenizer": ["evil.Evil", null]}}'
    (tmp_path / "cache/tokenizer/tokenizer_config.json").write_bytes(data)
    pin = {"tokenizer_config.json": hashlib.sha256(data).hexdigest()}
    forge(tmp_path / "cache", lambda values: values["header"]["tokenizer"]["files"].update(pin))
    for ask in (lambda cache: cache.save_tokenizer(tmp_path / "student"), lambda cache: cache.check_tokenizer()):
        with pytest.raises(CacheError, match=r"tokenizer_config\.json names code to run \(auto_map\)"):
            ask(open_cache(tmp_path / "cache"))
    assert not (tmp_path / "student/tokenizer_config.json").exists()
