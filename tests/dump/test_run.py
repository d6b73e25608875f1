"""A dump end to end, in this process: the same bytes at every world size, resume, and what goes wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import files_of, make_model, make_tokenizer, sentences, write_jsonl
from store.making import BACKENDS

import kdcache
from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.errors import CacheError, ConfigError, CorpusError, TeacherError
from kdcache.launcher import World

MakeConfig = Callable[..., DumpConfig]


def dump(config: DumpConfig, world_size: int = 1, ranks: list[int] | None = None) -> None:
    for rank in range(world_size) if ranks is None else ranks:
        run_dump(config, World(rank, world_size))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_bytes_are_the_same_at_every_world_size(make_config: MakeConfig, tmp_path: Path, backend: str) -> None:
    for world_size in (1, 2, 3):
        dump(make_config(tmp_path / str(world_size), backend=backend), world_size)
    one = files_of(tmp_path / "1")
    assert "cache.json" in one
    assert sum(name.startswith("shards/") for name in one) == 24
    assert files_of(tmp_path / "2") == one
    assert files_of(tmp_path / "3") == one


def test_records_are_the_teachers_own(make_config: MakeConfig, teacher_folder: Path, tmp_path: Path) -> None:
    """Against a plain forward of each document alone; classes above the tokenizer's ids are dropped."""
    from transformers import AutoModelForCausalLM

    dump(make_config(tmp_path / "cache", record={"exact_top_k": 320, "logit_dtype": "float32"}))
    cache = kdcache.open_cache(tmp_path / "cache")
    assert cache.manifest.header.num_classes == 320
    model = AutoModelForCausalLM.from_pretrained(teacher_folder)
    checked = 0
    for number in range(0, len(cache), 5):
        batch = cache.read(number, number + 1)
        tokens, documents = batch.tokens(0), batch.documents(0)
        rows = []
        for start, stop in zip(np.cumsum(documents) - documents, np.cumsum(documents), strict=True):
            piece = torch.from_numpy(tokens[start:stop])[None]
            rows.append(model(piece).logits[0, :, :320].detach())
        plain_PV = torch.cat(rows)[torch.from_numpy(batch.positions(0))]
        targets = batch.targets()
        stored_PV = torch.zeros_like(plain_PV).scatter(1, targets.ids_PE, targets.logits_PE)
        torch.testing.assert_close(stored_PV, plain_PV, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(targets.log_partition(1.0), plain_PV.logsumexp(-1), rtol=1e-4, atol=1e-4)
        labels = torch.from_numpy(batch.labels)
        label_logits = targets.label_logits(labels)
        assert label_logits is not None
        own = plain_PV.gather(1, labels[:, None])[:, 0]
        torch.testing.assert_close(label_logits, own, rtol=1e-3, atol=1e-2)
        checked += len(labels)
    assert checked > 300


def test_a_resumed_dump_makes_only_what_is_missing(make_config: MakeConfig, tmp_path: Path) -> None:
    whole, halves = make_config(tmp_path / "whole"), make_config(tmp_path / "halves")
    dump(whole)
    dump(halves, world_size=3, ranks=[1])
    with pytest.raises(CacheError, match=r"is not finished: 4 units committed; .*run kdcache dump-logits dump.yaml"):
        kdcache.open_cache(tmp_path / "halves")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "halves" / "shards/000").iterdir()}
    assert len(kept) == 8
    dump(halves, world_size=2)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert files_of(tmp_path / "halves") == files_of(tmp_path / "whole")


def test_a_finished_dump_is_left_alone(
    make_config: MakeConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path / "cache")
    dump(config)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.json")}
    dump(config)
    assert "is finished already" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.json")} == before
    assert not (tmp_path / "cache" / ".kdcache" / "index").exists()


def test_a_damaged_manifest_is_written_again(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(tmp_path / "cache")
    dump(config)
    before = files_of(tmp_path / "cache")
    manifest = tmp_path / "cache" / "cache.json"
    manifest.write_bytes(manifest.read_bytes()[:300])
    dump(config)
    assert files_of(tmp_path / "cache") == before


def test_a_lost_shard_is_made_again_with_the_same_bytes(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(tmp_path / "cache")
    dump(config)
    before = files_of(tmp_path / "cache")
    for name in ("shards/000/000003.zarr.zip", "shards/000/000005.json"):
        (tmp_path / "cache" / name).unlink()
    dump(config)
    assert files_of(tmp_path / "cache") == before


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"task": {"sequence_length": 32}}, "task.sequence_length"),
        ({"record": {"exact_top_k": 9}}, "records.sampled.exact_top_k"),
        ({"seed": 1}, "seed"),
        ({"compute": {"batch_tokens": 256}}, "compute.batch_tokens"),
        ({"corpus": {"tokens_field": "words"}}, "compute.tokens_field"),
    ],
)
def test_another_setting_is_refused_by_name_and_nothing_is_lost(
    make_config: MakeConfig, tmp_path: Path, change: dict, key: str
) -> None:
    dump(make_config(tmp_path / "cache"), world_size=2, ranks=[0])
    before = files_of(tmp_path / "cache")
    with pytest.raises(CacheError, match=f"was begun with {key} "):
        dump(make_config(tmp_path / "cache", **change))
    assert files_of(tmp_path / "cache") == before


def test_records_made_by_other_means_are_not_mixed(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another device's path adds in another order: its records may differ in their last bits."""
    config = make_config(tmp_path / "cache")
    run_dump(config, World(0, 2))
    monkeypatch.setattr("kdcache.dump.begin.method_on", lambda device_type: "torch")
    with pytest.raises(CacheError, match=r"compute\.compression.*numba.*torch"):
        run_dump(config, World(1, 2))


def test_settings_may_change_while_nothing_is_committed(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="tokens with its end of text, expected at most"):
        dump(
            make_config(
                tmp_path / "cache",
                corpus={"paths": str(write_jsonl(tmp_path / "bad.jsonl", sentences(12)))},
                task={"packing": "documents", "sequence_length": 16},
            )
        )
    assert (tmp_path / "cache" / "header.json").exists()
    dump(make_config(tmp_path / "cache"))
    dump(make_config(tmp_path / "fresh"))
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "fresh")


def test_labels_only(make_config: MakeConfig, teacher_folder: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path / "labels", tokenizer=str(teacher_folder))
    dump(config.model_copy(update={"teacher": "none"}))
    dump(make_config(tmp_path / "full"))
    labels, full = kdcache.open_cache(tmp_path / "labels"), kdcache.open_cache(tmp_path / "full")
    assert labels.manifest.header.teacher is None
    assert len(labels) == len(full)
    assert np.array_equal(labels.read(0, len(labels)).labels, full.read(0, len(full)).labels)
    with pytest.raises(CacheError, match="labels only"):
        labels.read(0, 1).targets()


def test_chats_are_supervised_on_the_assistant(make_config: MakeConfig, teacher_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    rows = [
        {"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]}
        for a, b in zip(sentences(12, 1), sentences(12, 2), strict=True)
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = {"paths": str(path), "messages_field": "messages", "unit_rows": 5}
    task = {"packing": "documents", "sequence_length": 128, "overlong": "drop"}
    dump(make_config(tmp_path / "cache", corpus=corpus, task=task))
    cache = kdcache.open_cache(tmp_path / "cache")
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    replies = {row["messages"][1]["content"] for row in rows}
    for number in range(len(cache)):
        supervised = tokenizer.decode(cache.read(number, number + 1).labels)
        assert supervised.removesuffix("\n").removesuffix("<|im_end|>") in replies


@pytest.mark.parametrize("attention", ["document", "causal"])
def test_attention_is_pinned_and_matters(make_config: MakeConfig, tmp_path: Path, attention: str) -> None:
    dump(make_config(tmp_path / "cache", task={"attention": attention}))
    cache = kdcache.open_cache(tmp_path / "cache")
    assert cache.manifest.header.task["attention"] == attention
    pieces = [len(cache.read(i, i + 1).documents(0)) for i in range(len(cache))]
    assert (max(pieces) > 1) == (attention == "document")


def test_a_teacher_that_gives_nan_is_named_and_writes_nothing_of_that_shard(
    make_config: MakeConfig, teacher_folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_jsonl(tmp_path / "corpus.jsonl", ["cache cache cache"] * 20 + ["teacher cache teacher"] + ["cache"] * 9)
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    broken = tmp_path / "broken"
    shutil.copytree(teacher_folder, broken)
    model = AutoModelForCausalLM.from_pretrained(teacher_folder)
    word, others = (set(tokenizer(text)["input_ids"]) for text in ("teacher", "cache cache"))
    assert word - others
    with torch.no_grad():
        model.model.embed_tokens.weight[[*(word - others)]] = torch.nan
    model.save_pretrained(broken)
    config = make_config(tmp_path / "cache", teacher={"path": str(broken)}, task={"packing": "documents"})
    with pytest.raises(TeacherError, match=r"unit 2, example 0, position .* NaN or infinite"):
        dump(config)
    names = sorted(path.name for path in (tmp_path / "cache" / "shards/000").iterdir())
    assert names == ["000000.json", "000000.zarr.zip", "000001.json", "000001.zarr.zip"]


def test_bad_input(make_config: MakeConfig, teacher_folder: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], match: str, **sections: object) -> None:
        with pytest.raises(error, match=match) as caught:
            dump(make_config(tmp_path / "refused", **sections))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "refused" / "cache.json").exists()
        shutil.rmtree(tmp_path / "refused", ignore_errors=True)

    refused(TeacherError, "neither a folder nor a model", teacher={"path": str(tmp_path / "nowhere")})
    (tmp_path / "hollow").mkdir()
    refused(TeacherError, r"holds no config.json with \*.safetensors", teacher={"path": str(tmp_path / "hollow")})
    refused(ConfigError, "got task.sequence_length 129, expected at most 128", task={"sequence_length": 129})
    narrow = tmp_path / "narrow"
    make_tokenizer(narrow)
    make_model(narrow, vocab_size=300)
    refused(
        TeacherError,
        "got a teacher with 300 classes, expected at least the tokenizer's 320",
        teacher={"path": str(narrow)},
    )
    single = write_jsonl(tmp_path / "single.jsonl", ["a"] * 12)
    unended = {"packing": "documents", "end_of_text": False}
    refused(CorpusError, "gives no supervised position", corpus={"paths": str(single)}, task=unended)
    if not torch.cuda.is_available():
        refused(ConfigError, "got compute.device: cuda and no GPU that torch can use", compute={"device": "cuda"})


def test_a_resumed_dump_reads_the_day_on_which_it_began(
    make_config: MakeConfig, teacher_folder: Path, tmp_path: Path
) -> None:
    """The template asks for the day; it is in the header, and the clock of the second run is not asked."""
    tokenizer = shutil.copytree(teacher_folder, tmp_path / "tokenizer")
    template = tokenizer / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d %b %Y') }}\n" + template.read_text(), encoding="utf-8")
    chats = [[{"role": "user", "content": f"shard {n}"}, {"role": "assistant", "content": "cache"}] for n in range(9)]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats), encoding="utf-8")

    def config(name: str, **task: object) -> DumpConfig:
        corpus = {"paths": str(path), "messages_field": "messages", "unit_rows": 3}
        return make_config(tmp_path / name, corpus=corpus, tokenizer=str(tokenizer), task=task)

    dump(config("whole", date="2025-01-31"))
    dump(config("halves", date="2025-01-31"), world_size=3, ranks=[0])
    dump(config("halves"))
    assert files_of(tmp_path / "halves") == files_of(tmp_path / "whole")
    dump(config("today"))
    header = kdcache.open_cache(tmp_path / "today").manifest.header
    assert header.task["date"] > "2025-01-31"
    assert "jinja2" in header.libraries
    with pytest.raises(CacheError, match=r"was begun with task.date 20\d\d-\d\d-\d\d, got 2025-01-31"):
        dump(config("today", date="2025-01-31"))
    plain = make_config(tmp_path / "plain", corpus={"paths": str(path), "messages_field": "messages"})
    dump(plain)
    assert "date" not in kdcache.open_cache(tmp_path / "plain").manifest.header.task
