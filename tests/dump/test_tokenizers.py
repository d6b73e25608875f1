"""A teacher reads its own tokens, whatever tokenizer the students have."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classes import MOODS, TAGS, make_classifier, moods, tagged, write_conll, write_rows
from helpers import WORDS, files_of, kdcache, make_model, make_tokenizer, sentences, write_jsonl
from transformers import AutoTokenizer

import kdcache as public
from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.errors import ConfigError, CorpusError, TeacherError
from kdcache.launcher import World
from kdcache.store.cache import Cache
from kdcache.tasks.tokenizer import load_tokenizer, tokenizer_digest

CLASSIFICATIONS = ("sequence_classification", "token_classification")


def other_words(folder: Path) -> Path:
    """A tokenizer of the same make over other text: few of its ids mean the same."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[PAD]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    backend.train_from_iterator([" ".join(WORDS[::-1])], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teachers, corpora, and another tokenizer."""
    root = tmp_path_factory.mktemp("home")
    make_classifier(root / CLASSIFICATIONS[0], CLASSIFICATIONS[0], tuple(MOODS))
    make_classifier(root / CLASSIFICATIONS[1], CLASSIFICATIONS[1], TAGS)
    write_rows(root / "moods.jsonl", moods(30))
    write_conll(root / "names.conll", tagged(30, longest=40))
    other_words(root / "other")
    return root


def settings(home: Path, kind: str, output: Path, /, **changes: Any) -> dict[str, Any]:
    corpora = {
        CLASSIFICATIONS[0]: {"paths": str(home / "moods.jsonl"), "format": "jsonl", "label_field": "label"},
        CLASSIFICATIONS[1]: {"paths": str(home / "names.conll"), "format": "conll"},
    }
    return {
        "output": str(output),
        "corpus": corpora[kind] | {"unit_rows": 8},
        "teacher": {"path": str(home / kind), "dtype": "float32"},
        "task": {"name": kind, "max_length": 32},
        "compute": {"batch_tokens": 160, "threads": 1},
        "record": {"logit_dtype": "float32"},
    } | changes


def dump(home: Path, kind: str, output: Path, world_size: int = 1, /, **changes: Any) -> Cache:
    for rank in range(world_size):
        run_dump(DumpConfig.model_validate(settings(home, kind, output, **changes)), World(rank, world_size))
    return public.open_cache(output)


@pytest.fixture(scope="module")
def own(home: Path) -> dict[str, Cache]:
    """What the teachers say of the corpora by their own tokenizers."""
    return {task: dump(home, task, home / "own" / task) for task in CLASSIFICATIONS}


@pytest.mark.parametrize("task", CLASSIFICATIONS)
@pytest.mark.parametrize("name", ["other", "characters"])
def test_records_are_the_same_whatever_tokenizer_the_students_have(
    home: Path, own: dict[str, Cache], tmp_path: Path, task: str, name: str
) -> None:
    """Windows of 16 of the students' tokens, of 32 of the teacher's."""
    tokenizer = name if name == "characters" else str(home / name)
    changes: dict = {"tokenizer": tokenizer, "task": {"name": task, "max_length": 16}}
    changes["teacher"] = {"path": str(home / task), "dtype": "float32", "max_length": 32}
    cache = dump(home, task, tmp_path / "cache", **changes)
    first, second = own[task].read(0, len(own[task])), cache.read(0, len(cache))
    assert second.labels.tolist() == first.labels.tolist()
    torch.testing.assert_close(
        second.targets().dense_log_probs(1.0), first.targets().dense_log_probs(1.0), rtol=0, atol=1e-5
    )
    header = cache.manifest.header
    assert header.teacher is not None
    assert header.teacher.tokenizer_sha256 == tokenizer_digest(load_tokenizer(home / task))
    cache.save_tokenizer(tmp_path / "theirs")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    assert "for the teacher" in " ".join(cache.manifest.totals.notes) or task == CLASSIFICATIONS[0]
    if task == CLASSIFICATIONS[0]:
        rows = theirs([row["text"] for row in moods(30)], truncation=True, max_length=16)["input_ids"]
        assert [second.tokens(i).tolist() for i in range(len(second))] == rows
        return
    words = [word for row, _ in tagged(30, longest=40) for word in row]
    firsts = np.concatenate([second.tokens(i)[second.positions(i)] for i in range(len(second))])
    assert firsts.tolist() == [theirs(word, add_special_tokens=False)["input_ids"][0] for word in words]
    assert max(len(second.tokens(i)) for i in range(len(second))) <= 16


def test_rows_that_are_left_out_are_left_out_of_both_encodings(
    home: Path, own: dict[str, Cache], tmp_path: Path
) -> None:
    task, rows = CLASSIFICATIONS[0], moods(30)
    write_rows(tmp_path / "moods.jsonl", [*rows[:11], {"text": "cache", "label": "grey"}, *rows[11:]])
    corpus = {"paths": str(tmp_path / "moods.jsonl"), "format": "jsonl", "label_field": "label", "unit_rows": 8}
    skipping: dict = {"on_bad_row": "skip", "bad_rows_at_most": 0.1}
    cache = dump(home, task, tmp_path / "cache", corpus=corpus, tokenizer="characters", **skipping)
    assert cache.manifest.totals.notes["skipped"] == 1
    first, second = own[task].read(0, 30), cache.read(0, 30)
    torch.testing.assert_close(
        second.targets().dense_log_probs(1.0), first.targets().dense_log_probs(1.0), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("task", CLASSIFICATIONS)
def test_two_encodings_give_the_same_bytes_at_every_world_size(home: Path, tmp_path: Path, task: str) -> None:
    record = [{"kind": "dense"}, {"kind": "features", "at": "pooled" if task == CLASSIFICATIONS[0] else "positions"}]
    for size in (1, 3):
        dump(home, task, tmp_path / str(size), size, tokenizer="characters", record=record)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "3")
    assert kdcache("verify", tmp_path / "1").returncode == 0


def test_a_teacher_that_reads_other_tokens_is_not_timed_on_the_caches(home: Path, tmp_path: Path) -> None:
    from kdcache.report.evaluate import evaluate_students

    task = CLASSIFICATIONS[0]
    dump(home, task, tmp_path / "cache", tokenizer="characters")
    public.open_cache(tmp_path / "cache").save_tokenizer(tmp_path / "student")
    student = tmp_path / "student"
    shutil.copytree(
        home / task, student, dirs_exist_ok=True, ignore=lambda _, names: [n for n in names if "token" in n]
    )
    rows = evaluate_students([str(student)], cache=str(tmp_path / "cache"), teacher=str(home / task), device="cpu")
    assert rows[0]["bytes"] > 0
    assert "milliseconds" not in rows[0]
    assert rows[1]["milliseconds"] > 0


def test_a_folder_with_the_teachers_vocabulary_changes_nothing(
    home: Path, own: dict[str, Cache], tmp_path: Path
) -> None:
    task = CLASSIFICATIONS[0]
    for path in (home / task).glob("*token*"):
        (tmp_path / "same").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "same")
    cache = dump(home, task, tmp_path / "cache", tokenizer=str(tmp_path / "same"))
    assert cache.digest == own[task].digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": {"max_length": 20}}, "got teacher.max_length 20 for a teacher that reads the cache's tokens"),
        (
            {"teacher": {"max_length": 65}, "tokenizer": "characters"},
            "expected at most 64, the most positions that the",
        ),
        ({"tokenizer": "nowhere/at/all"}, "nowhere/at/all"),
    ],
)
def test_lengths_and_folders_that_do_not_fit(home: Path, tmp_path: Path, changes: dict, message: str) -> None:
    task = CLASSIFICATIONS[0]
    whole = changes | {"teacher": {"path": str(home / task), **changes.get("teacher", {})}}
    with pytest.raises(ConfigError, match=message):
        dump(home, task, tmp_path / "cache", **whole)


def test_a_longer_task_is_cut_for_a_short_teacher(home: Path, tmp_path: Path) -> None:
    task = CLASSIFICATIONS[0]
    cache = dump(home, task, tmp_path / "cache", tokenizer="characters", task={"name": task, "max_length": 200})
    assert cache.manifest.header.teacher is not None
    assert cache.manifest.header.teacher.max_length == 64


# Language models


def another_vocabulary(folder: Path) -> Path:
    """The teacher's, with two tokens changed for each other."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    path.write_text(json.dumps(content))
    return folder


@pytest.fixture
def copied(teacher_folder: Path, tmp_path: Path) -> Callable[[str], Path]:
    def copy(name: str) -> Path:
        shutil.copytree(teacher_folder, tmp_path / name, ignore=lambda _, names: [n for n in names if "token" not in n])
        return tmp_path / name

    return copy


def test_a_language_model_reads_one_vocabulary(
    make_config: Callable, copied: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    swapped = another_vocabulary(copied("swapped"))
    with pytest.raises(
        ConfigError, match=r"not one vocabulary with that of the teacher .* \(token \d+, '[ab]', is \d+"
    ):
        run_dump(make_config(tmp_path / "refused", tokenizer=str(swapped)), World())
    with pytest.raises(ConfigError, match="got tokenizer characters with a teacher"):
        run_dump(make_config(tmp_path / "refused", tokenizer="characters"), World())
    instructed = AutoTokenizer.from_pretrained(copied("instructed"))
    instructed.eos_token, instructed.chat_template = "<|im_end|>", "{{ messages[0].content }}"
    instructed.save_pretrained(tmp_path / "instructed")
    run_dump(make_config(tmp_path / "cache", tokenizer=str(tmp_path / "instructed")), World())
    assert "the end of text of tokenizer" in capfd.readouterr().err
    tokens = public.open_cache(tmp_path / "cache").read(0, 5).arrays["tokens"]
    assert (tokens == instructed.eos_token_id).any()


def test_a_teacher_without_a_tokenizer_says_what_its_config_knows(
    make_config: Callable, teacher_folder: Path, copied: Callable[[str], Path], tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(teacher_folder, bare, ignore=lambda _, names: [n for n in names if "token" in n])
    teacher = {"path": str(bare)}
    with pytest.raises(ConfigError, match=r"got no tokenizer and a teacher, .*bare, whose folder has none"):
        run_dump(make_config(tmp_path / "cache", teacher=teacher), World())
    other_end = AutoTokenizer.from_pretrained(copied("other"))
    other_end.eos_token = "<|im_end|>"
    other_end.save_pretrained(tmp_path / "other")
    with pytest.raises(
        ConfigError, match="whose token of end of text is 2, expected 0, the eos_token_id in the config"
    ):
        run_dump(make_config(tmp_path / "cache", teacher=teacher, tokenizer=str(tmp_path / "other")), World())
    run_dump(make_config(tmp_path / "cache", teacher=teacher, tokenizer=str(copied("own"))), World())
    assert len(public.open_cache(tmp_path / "cache"))


# What a dump says of it


def test_wrong_names_for_a_teacher_that_has_none_are_told_by_its_score(
    home: Path, own: dict[str, Cache], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A teacher of LABEL_0 and LABEL_1 whose labels are its own predictions, named in the wrong order."""
    task = CLASSIFICATIONS[0]
    shutil.copytree(home / task, tmp_path / "unnamed")
    config = json.loads((tmp_path / "unnamed" / "config.json").read_text())
    (tmp_path / "unnamed" / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if key not in ("id2label", "label2id")})
    )
    predicted = own[task].read(0, 30).targets().dense_log_probs(1.0).argmax(-1).tolist()
    rows = [{**row, "label": [*MOODS][i]} for row, i in zip(moods(30), predicted, strict=True)]
    write_rows(tmp_path / "moods.jsonl", rows)
    corpus = {"paths": str(tmp_path / "moods.jsonl"), "format": "jsonl", "label_field": "label"}
    teacher = {"path": str(tmp_path / "unnamed"), "dtype": "float32"}
    for name, labels in (("right", [*MOODS]), ("wrong", [*MOODS][::-1])):
        changes = {"corpus": corpus, "teacher": teacher, "task": {"name": task, "max_length": 32, "labels": labels}}
        dump(home, task, tmp_path / name, **changes)
        out, err = capfd.readouterr()
        assert ("the teacher on the labels: accuracy 100.0% of 30 labelled" in out) == (name == "right")
        assert ("task.labels: [bright, dark]" in err) == (name == "wrong")
    assert "best_order" in kdcache("inspect", tmp_path / "wrong", "--json").stdout
    with pytest.raises(ConfigError, match="expected those of the teacher: 2 of them"):
        dump(home, task, tmp_path / "many", **changes | {"task": {"name": task, "labels": ["a", "b", "c"]}})


def test_a_tokenizer_one_id_wider_than_the_teachers_rows(
    make_config: Callable, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As Gemma 3 1B: 262,145 ids, the last of which no text contains, for 262,144 rows."""
    wide = tmp_path / "wide"
    make_tokenizer(wide)
    tokenizer = AutoTokenizer.from_pretrained(wide)
    assert tokenizer.add_tokens(["<image>"], special_tokens=True) == 1
    tokenizer.save_pretrained(wide)
    make_model(wide, vocab_size=320)
    settings: dict = {"teacher": {"path": str(wide), "dtype": "float32"}, "task": {"num_classes": 320}}
    corpus = {"paths": str(write_jsonl(tmp_path / "texts.jsonl", sentences(12)))}
    with pytest.raises(TeacherError, match=r"expected at least the tokenizer's 321; .* or set task.num_classes: 320"):
        run_dump(make_config(tmp_path / "refused", **settings | {"task": {}, "corpus": corpus}), World())
    run_dump(make_config(tmp_path / "cache", **settings, corpus=corpus), World())
    header = public.open_cache(tmp_path / "cache").manifest.header
    assert header.tokenizer is not None
    assert (header.num_classes, header.tokenizer.vocab_size) == (320, 321)
    assert kdcache("verify", tmp_path / "cache").returncode == 0
    texts = [*sentences(3), "a cache <image> of it"]
    corpus = {"paths": str(write_jsonl(tmp_path / "bad.jsonl", texts))}
    with pytest.raises(
        CorpusError, match=r"bad.jsonl:4 has the token <image> \(320\), expected ids below task.num_cla"
    ):
        run_dump(make_config(tmp_path / "bad", **settings, corpus=corpus), World())
    skipping = {"on_bad_row": "skip", "bad_rows_at_most": 0.5}
    run_dump(make_config(tmp_path / "skipped", **settings, **skipping, corpus=corpus), World())
    assert public.open_cache(tmp_path / "skipped").manifest.totals.notes["skipped"] == 1
    with pytest.raises(ConfigError, match=r"got task.num_classes 322, expected at most the tokenizer's 321 ids"):
        run_dump(make_config(tmp_path / "bad", **settings | {"task": {"num_classes": 322}}, corpus=corpus), World())
