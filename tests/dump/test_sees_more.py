"""A teacher that sees more than its student, against the teacher run by hand on what it sees."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizer_kit as kit
import torch
from helpers import files_of, make_model, sentences
from numpy.testing import assert_allclose
from transformers import AutoModelForCausalLM

import kdcache
from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.errors import CacheError, ConfigError, CorpusError
from kdcache.launcher import World
from kdcache.report.inspect import describe, render
from kdcache.report.repair import repair_cache
from kdcache.report.teacher_check import check_teacher

DENSE = {"kind": "dense", "logit_dtype": "float32"}
PREFIX = "A secret that the teacher knows:\n\n"
WINDOWS = {"packing": "windows", "sequence_length": 32}
SHOTS = [{"role": "user", "content": "one?"}, {"role": "assistant", "content": "two."}]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat-teacher")
    kit.byte_level(kit.SMOLLM2).save_pretrained(folder)
    make_model(folder, vocab_size=400, positions=2048)
    return folder


@pytest.fixture(scope="module")
def model(teacher: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(teacher: Path) -> Any:
    return kit.byte_level(kit.SMOLLM2)


def chats(count: int = 12) -> list[dict[str, Any]]:
    """Rows of one to three turns, with what the teacher is told: hints in the first question, and a system prompt."""
    words, rows = sentences(6 * count), []
    for i in range(count):
        turns = [
            {"role": role, "content": words[6 * i + 2 * turn + part][:24]}
            for turn in range(1 + i % 3)
            for part, role in enumerate(("user", "assistant"))
        ]
        told = [{"role": "system", "content": f"The answer is {i}."}, *turns]
        told[1] = {"role": "user", "content": f"{turns[0]['content']} Hint: {words[6 * i + 5][:30]}"}
        rows.append({"text": words[6 * i][:80], "messages": turns, "told": told})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def make(teacher: Path, tmp_path: Path) -> Callable[..., DumpConfig]:
    corpus = tmp_path / "corpus.jsonl"
    write(corpus, chats())

    def config(name: str = "cache", **sections: Any) -> DumpConfig:
        settings: dict[str, Any] = {
            "output": str(tmp_path / name),
            "corpus": {"paths": str(corpus), "format": "jsonl", "unit_rows": 5},
            "teacher": {"path": str(teacher), "dtype": "float32"},
            "task": {"sequence_length": 512, "packing": "documents"},
            "compute": {"batch_tokens": 2000, "block_positions": 50, "threads": 1},
            "record": DENSE,
        }
        for key, value in sections.items():
            settings[key] = {**settings[key], **value} if isinstance(value, dict) and key != "record" else value
        return DumpConfig.model_validate(settings)

    return config


def dumped(config: DumpConfig) -> Any:
    run_dump(config, World())
    return kdcache.open_cache(config.output)


def pieces(cache: Any) -> Iterator[tuple[np.ndarray, np.ndarray, torch.Tensor]]:
    """(tokens, positions in them, recorded log-probabilities) of each document in each example, in order."""
    for i in range(len(cache)):
        batch = cache.read(i, i + 1)
        rows_PV, begin = batch.targets().dense_log_probs(1.0), 0
        for length in batch.documents(0):
            at = (batch.positions(0) >= begin) & (batch.positions(0) < begin + length)
            yield batch.tokens(0)[begin : begin + length], batch.positions(0)[at] - begin, rows_PV[torch.from_numpy(at)]
            begin += length


def by_hand(model: Any, tokens: np.ndarray, num_classes: int) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.from_numpy(np.asarray(tokens, np.int64))[None]).logits[0, :, :num_classes].log_softmax(-1)


def near(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert_allclose(found.numpy(), expected.numpy(), atol=1e-6, rtol=1e-6)


def rendered(tokenizer: Any, messages: Any) -> np.ndarray:
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    return np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)


TOLD = [
    ({"corpus": {"messages_field": "messages", "teacher_messages_field": "told"}}, lambda row: row["told"]),
    (
        {"corpus": {"messages_field": "messages"}, "teacher": {"prefix": "Be brief."}},
        lambda row: [{"role": "system", "content": "Be brief."}, *row["messages"]],
    ),
    ({"corpus": {"messages_field": "messages"}, "teacher": {"prefix": SHOTS}}, lambda row: [*SHOTS, *row["messages"]]),
    (
        {"corpus": {"messages_field": "messages", "teacher_messages_field": "told"}, "teacher": {"prefix": "And:"}},
        lambda row: [{"role": "system", "content": f"And:\n\n{row['told'][0]['content']}"}, *row["told"][1:]],
    ),
]


@pytest.mark.parametrize("packing", ["documents", "windows"])
@pytest.mark.parametrize(("settings", "told"), TOLD)
def test_chats_have_the_records_of_the_conversation_that_the_teacher_is_told(
    make: Callable[..., DumpConfig], model: Any, tokenizer: Any, settings: dict[str, Any], told: Any, packing: str
) -> None:
    length = 512 if packing == "documents" else 40
    task = {"packing": packing, "sequence_length": length}
    cache = dumped(
        make(corpus=settings["corpus"], teacher={"max_length": 600, **settings.get("teacher", {})}, task=task)
    )
    rows = [(rendered(tokenizer, row["messages"]), rendered(tokenizer, told(row))) for row in chats()]
    checked = 0
    for tokens, positions, found_PV in pieces(cache):
        if not len(positions):
            continue
        ours, theirs, start = next(
            (ours, theirs, start)
            for ours, theirs in rows
            for start in range(len(ours) - len(tokens) + 1)
            if np.array_equal(ours[start : start + len(tokens)], tokens)
        )
        at = positions + start - len(ours) + len(theirs)
        near(found_PV, by_hand(model, theirs, cache.manifest.header.num_classes)[torch.from_numpy(at)])
        checked += len(positions)
    plain = dumped(make("plain", corpus={"messages_field": "messages"}, task=task))
    assert checked == plain.manifest.totals.positions
    for i in range(len(plain)):
        mine, other = cache.read(i, i + 1), plain.read(i, i + 1)
        assert np.array_equal(mine.tokens(0), other.tokens(0)), "the cache keeps the student's tokens alone"
        assert np.array_equal(mine.positions(0), other.positions(0))
        assert np.array_equal(mine.documents(0), other.documents(0))


@pytest.mark.parametrize("task", [{}, WINDOWS, {**WINDOWS, "attention": "causal"}])
def test_texts_have_the_records_behind_the_prefix(
    make: Callable[..., DumpConfig], model: Any, tokenizer: Any, task: dict[str, Any]
) -> None:
    cache = dumped(make(teacher={"prefix": PREFIX}, task=task))
    before = np.asarray(tokenizer(PREFIX)["input_ids"])
    for tokens, positions, found_PV in pieces(cache):
        rows_LV = by_hand(model, np.concatenate([before, tokens]), cache.manifest.header.num_classes)
        near(found_PV, rows_LV[torch.from_numpy(positions + len(before))])
    pin = cache.manifest.header.teacher
    assert pin.prefix_sha256 is not None
    assert pin.max_length == task.get("sequence_length", 512) + len(before)


def test_sampled_records_draw_for_the_student_s_positions(make: Callable[..., DumpConfig]) -> None:
    """The key of a draw is that of the place where the record stands: the same rows give the same draws."""
    record = {"kind": "sampled"}
    told = {"messages_field": "messages", "teacher_messages_field": "messages2"}
    path = Path(make().corpus.paths[0])
    write(path, [{**row, "messages2": row["messages"]} for row in chats()])
    mine = dumped(make(corpus=told, record=record, compute={"batch_tokens": 1}))
    plain = dumped(make("plain", corpus={"messages_field": "messages"}, record=record, compute={"batch_tokens": 1}))
    for unit in range(3):
        ours, theirs = mine.read_shard(unit).arrays, plain.read_shard(unit).arrays
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(values, theirs[name]) for name, values in ours.items())


@pytest.mark.parametrize("record", [DENSE, {"kind": "sampled"}, {"kind": "factored", "rank": "full"}])
def test_ranks_verify_and_repair(make: Callable[..., DumpConfig], tmp_path: Path, record: dict[str, Any]) -> None:
    told = {"corpus": {"messages_field": "messages", "teacher_messages_field": "told"}, "teacher": {"prefix": SHOTS}}
    one = make(**told, record=record)
    dumped(one)
    for rank in (1, 0):
        run_dump(one.model_copy(update={"output": str(tmp_path / "two")}), World(rank, 2))
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "two")
    words = render(describe(str(tmp_path / "cache")))
    assert "it alone saw a prefix of sha256" in words
    assert "it was told the chats of the column told" in words
    facts = check_teacher(str(tmp_path / "cache"), None, sample=6)
    assert facts["verdict"]["faithful"]
    before = files_of(tmp_path / "cache")
    next((tmp_path / "cache" / "shards").rglob("*.zip")).unlink()
    repair_cache(str(tmp_path / "cache"))
    assert files_of(tmp_path / "cache") == before


def test_another_prefix_is_another_teacher(make: Callable[..., DumpConfig]) -> None:
    dumped(make(teacher={"prefix": PREFIX, "max_length": 600}))
    with pytest.raises(CacheError, match="prefix_sha256"):
        dumped(make(teacher={"prefix": "Another.\n\n", "max_length": 600}))


def wrong(row: dict[str, Any], said: str) -> dict[str, Any]:
    return {**row, "told": [*row["told"][:-1], {"role": "assistant", "content": said}]}


def test_a_row_whose_shared_words_are_others_is_refused_or_skipped(make: Callable[..., DumpConfig]) -> None:
    told = {"messages_field": "messages", "teacher_messages_field": "told"}
    path, rows = Path(make().corpus.paths[0]), chats()
    write(path, [*rows[:2], wrong(rows[2], "Something else."), *rows[3:]])
    with pytest.raises(CorpusError, match=r"corpus.jsonl:3: the conversation that the teacher is told has '.*' where"):
        dumped(make(corpus=told))
    cache = dumped(make(corpus=told, on_bad_row="skip", bad_rows_at_most=0.2))
    assert cache.manifest.totals.notes["skipped"] == 1
    write(path, [*rows[:2], {**rows[2], "told": SHOTS}])
    with pytest.raises(CorpusError, match=r"corpus.jsonl:3: the conversation"):
        dumped(make("other", corpus=told))


def test_a_text_that_is_cut_into_other_tokens_behind_the_prefix_is_refused(make: Callable[..., DumpConfig]) -> None:
    with pytest.raises(CorpusError, match=r"corpus.jsonl:5: behind teacher.prefix its text is cut into other tokens"):
        dumped(make(teacher={"prefix": "Secret: "}))


def test_a_conversation_longer_than_the_teacher_may_read_is_refused(make: Callable[..., DumpConfig]) -> None:
    told = {"messages_field": "messages", "teacher_messages_field": "told"}
    for packing in ("documents", "windows"):
        with pytest.raises(CorpusError, match=r"corpus.jsonl:\d+ is \d+ tokens to the teacher, .*max_length 40"):
            dumped(make(packing, corpus=told, teacher={"max_length": 40}, task={"packing": packing}))


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"teacher": {"prefix": "x" * 5000}}, "got a teacher that is to read .* tokens with what it alone sees"),
        ({"teacher": {"prefix": PREFIX, "max_length": 100}}, "got teacher.max_length 100, expected at least the"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(make: Callable[..., DumpConfig], sections: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        dumped(make(**sections))


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"teacher": {"prefix": SHOTS}}, "got messages as teacher.prefix of a corpus without corpus.messages_field"),
        ({"teacher": {"prefix": [{"role": "user"}]}}, "got a message with role, expected role and content"),
        ({"teacher": {"prefix": ""}}, "prefix"),
        ({"corpus": {"teacher_messages_field": "told"}}, "teacher_messages_field without corpus.messages_field"),
        (
            {"corpus": TOLD[0][0]["corpus"], "teacher": "none", "tokenizer": "x"},
            "got corpus.teacher_messages_field with teacher: none",
        ),
        (
            {**TOLD[1][0], "task": {"packing": "windows", "attention": "causal"}},
            "got task.attention causal with task.packing windows",
        ),
    ],
)
def test_settings_that_disagree_are_refused(make: Callable[..., DumpConfig], sections: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(**sections)
