"""What a cache is made of: pinned where it decides a byte, and nowhere else."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import files_of, make_model, sentences, write_jsonl

from kdcache.dump.hardware import machine_pins
from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.dump.teacher_files import TeacherFiles, weights_digest
from kdcache.errors import CacheError, CorpusError, TeacherError
from kdcache.launcher import World
from kdcache.store.builder import CacheBuilder
from kdcache.store.cache import read_manifest
from kdcache.store.files import Root

MakeConfig = Callable[..., DumpConfig]
HALF = World(0, 2)


@pytest.fixture
def teacher(teacher_folder: Path, tmp_path: Path) -> Path:
    """A copy of the teacher, to be changed."""
    return Path(shutil.copytree(teacher_folder, tmp_path / "teacher"))


@pytest.fixture
def make(make_config: MakeConfig, teacher: Path, tmp_path: Path) -> MakeConfig:
    """make(**sections): of `cache`, or of output=…, with that teacher."""

    def config(output: str = "cache", **sections: object) -> DumpConfig:
        of_teacher = {"path": str(teacher), **sections.pop("teacher", {})}  # type: ignore[dict-item]
        return make_config(tmp_path / output, teacher=of_teacher, **{"corpus": {"unit_rows": 30}, **sections})

    return config


def edit(folder: Path, **settings: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


EDITS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "rms_norm_eps": ("files.config.json", lambda folder: edit(folder, rms_norm_eps=1e-2)),
    "rope_theta": ("files.config.json", lambda folder: edit(folder, rope_theta=77.0)),
    "attention": ("files.config.json", lambda folder: edit(folder, _attn_implementation="eager")),
    "weights": ("weights_sha256", lambda folder: make_model(folder, vocab_size=330, seed=5)),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_teacher_that_was_edited_between_restarts_is_refused(
    make: MakeConfig, teacher: Path, tmp_path: Path, name: str
) -> None:
    """It was taken, exit 0: half of the shards came from each teacher, and verify found nothing."""
    run_dump(make(), HALF)
    before, (key, change) = files_of(tmp_path / "cache"), EDITS[name]
    shutil.copytree(teacher, tmp_path / "kept")
    change(teacher)
    with pytest.raises(
        CacheError, match=rf"was begun with teacher\.{key} .*: put that file of the teacher back"
    ) as error:
        run_dump(make(), World())
    assert "\n" not in str(error.value)
    assert files_of(tmp_path / "cache") == before
    shutil.rmtree(teacher)
    (tmp_path / "kept").rename(teacher)
    run_dump(make(), World())
    run_dump(make("fresh"), World())
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "fresh")


def test_the_way_to_compute_attention_is_pinned_as_it_came_out(make: MakeConfig, tmp_path: Path) -> None:
    run_dump(make(), HALF)
    with pytest.raises(CacheError, match=r"was begun with compute\.attention_implementation sdpa, got eager"):
        run_dump(make(teacher={"attention_implementation": "eager"}), World())
    run_dump(make(teacher={"attention_implementation": "sdpa"}), World())
    assert read_manifest(Root(tmp_path / "cache")).header.compute["attention_implementation"] == "sdpa"
    run_dump(make("fresh"), World())
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "fresh")


def test_an_edited_chat_template_is_refused(make: MakeConfig, teacher: Path, tmp_path: Path) -> None:
    run_dump(make(), HALF)
    template = teacher / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "helper"))
    with pytest.raises(CacheError, match=r"was begun with tokenizer\."):
        run_dump(make(), World())


REPLACED = {
    "weights": (lambda folder: make_model(folder, vocab_size=330, seed=5), TeacherError, "model.safetensors"),
    "config": (lambda folder: edit(folder, rms_norm_eps=1e-2), TeacherError, "config.json"),
    "a corpus of the same size": (lambda folder: replace_corpus(folder.parent), CorpusError, "corpus.jsonl"),
}


def replace_corpus(folder: Path) -> None:
    """Another file of the same size and time in its place."""
    path, other = folder / "corpus.jsonl", folder / "other"
    before = path.stat()
    other.write_text(path.read_text().replace("cache", "cacao"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("name", REPLACED)
def test_what_is_replaced_while_a_dump_runs_ends_it(
    make: MakeConfig, teacher: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, error, file = REPLACED[name]
    original = CacheBuilder.commit

    def and_change(builder: CacheBuilder, index: int, *args: object, **settings: object) -> object:
        made = original(builder, index, *args, **settings)  # type: ignore[arg-type]
        if index == 1:
            change(teacher)
        return made

    monkeypatch.setattr(CacheBuilder, "commit", and_change)
    with pytest.raises(error, match=rf"{file} changed while "):
        run_dump(make(), World())
    monkeypatch.undo()
    records = sorted(path.name for path in (tmp_path / "cache" / "shards/000").glob("*.json"))
    assert records == ["000000.json", "000001.json"]
    assert not (tmp_path / "cache" / "cache.json").exists()


def test_a_copy_of_the_same_bytes_may_take_a_files_place(
    make: MakeConfig, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = CacheBuilder.commit

    def and_copy(builder: CacheBuilder, index: int, *args: object, **settings: object) -> object:
        for name in ("model.safetensors", "config.json"):
            shutil.copyfile(teacher / name, tmp_path / "copy")
            (tmp_path / "copy").replace(teacher / name)
        return original(builder, index, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(CacheBuilder, "commit", and_copy)
    run_dump(make(), World())
    assert (tmp_path / "cache" / "cache.json").exists()


def test_code_is_pinned_where_it_may_run(teacher: Path) -> None:
    (teacher / "parts").mkdir()
    (teacher / "parts" / "modeling.py").write_text("SCALE = 1\n")
    (teacher / "README.md").write_text("read me")
    without, files = TeacherFiles(teacher, code=False), TeacherFiles(teacher, code=True)
    assert [*without.others] == ["config.json"]
    assert [*files.others] == ["config.json", "parts/modeling.py"]
    assert files.weights_sha256 == weights_digest(teacher)
    (teacher / "README.md").write_text("read me again")
    files.check_unchanged()
    (teacher / "parts" / "modeling.py").write_text("SCALE = 2\n")
    without.check_unchanged()
    with pytest.raises(
        TeacherError, match=r"parts/modeling\.py changed while the teacher was being used: it has sha256"
    ):
        files.check_unchanged()
    (teacher / "parts" / "modeling.py").unlink()
    with pytest.raises(TeacherError, match=r"it was removed; put it back"):
        files.check_unchanged()


def test_a_moved_teacher_and_a_renamed_corpus_go_on(make: MakeConfig, teacher: Path, tmp_path: Path) -> None:
    run_dump(make("fresh"), World())
    run_dump(make(), HALF)
    stand = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "shards/000").iterdir()}
    moved = teacher.rename(tmp_path / "elsewhere")
    (tmp_path / "corpus.jsonl").rename(tmp_path / "rows.jsonl")
    run_dump(
        make(teacher={"path": str(moved)}, corpus={"paths": str(tmp_path / "rows.jsonl"), "unit_rows": 30}), World()
    )
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "fresh")
    assert stand == {path: path.stat().st_mtime_ns for path in stand}


def test_cores_matter_where_they_decide_a_bit_alone(
    make: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {"tokenizer": str(tmp_path / "teacher"), "compute": {"threads": 0}}
    of_labels = make("labels", **labels).model_copy(update={"teacher": "none"})
    of_teacher = make("cache", compute={"threads": 0})
    threads = torch.get_num_threads()
    try:
        for cores in ({0}, {0, 1, 2}):  # a node with other cores goes on
            monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: cores)
            for config in (of_labels, of_teacher):
                run_dump(config, HALF if cores == {0} else World())
        with pytest.raises(CacheError, match=r"was begun with compute\.threads 1, got 2"):
            run_dump(make("cache", compute={"threads": 2}), World())
        run_dump(of_labels.model_copy(update={"compute": of_labels.compute.model_copy(update={"threads": 2})}), World())
    finally:
        torch.set_num_threads(threads)
    assert read_manifest(Root(tmp_path / "cache")).header.compute["threads"] == 1
    assert not {"threads", "hardware"} & read_manifest(Root(tmp_path / "labels")).header.compute.keys()


def test_beside_a_gpu_its_kind_is_pinned_and_threads_only_for_a_basis(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    gpu, pins = torch.device("cuda", 0), {"hardware": "sm_90 with 132 multiprocessors"}
    assert machine_pins(make(), gpu, 64) == pins
    assert machine_pins(make(record={"kind": "factored", "rank": 8}), gpu, 64) == {**pins, "threads": 64}
    cpu = machine_pins(make(), torch.device("cpu"), 64)
    assert cpu["threads"] == 64
    assert torch.backends.cpu.get_cpu_capability() in cpu["hardware"]


def test_a_corpus_that_is_replaced_while_it_is_indexed_is_refused(
    make: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kdcache.corpus.corpus as module

    original, config = module._index_file, make()
    write_jsonl(tmp_path / "corpus.jsonl", sentences(120))

    def and_replace(file: object, advance: object) -> object:
        index = original(file, advance)  # type: ignore[arg-type]
        replace_corpus(tmp_path)
        return index

    monkeypatch.setattr(module, "_index_file", and_replace)
    with pytest.raises(CorpusError, match=r"corpus\.jsonl changed while it was being used"):
        run_dump(config, World())
