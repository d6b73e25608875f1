"""Chats of many shapes and templates: what is supervised, decoded, is what the assistant said as it is said in use."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from chats import chat, rows, spoken, where
from readers import reader

from kdcache.errors import CorpusError
from kdcache.tasks.causal_lm import CausalLMConfig
from kdcache.tasks.chat import Chats

THOUGHT = "<think>\nhm\n</think>\n\n"
TWO = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": THOUGHT + "4"}]
TWO += [{"role": "user", "content": "And 3 + 3?"}, {"role": "assistant", "content": THOUGHT + "6"}]
GREETING = [{"role": "assistant", "content": "Hello!"}, *TWO[:1], {"role": "assistant", "content": "4"}]
SYSTEM = [{"role": "system", "content": "be brief"}]
SPECIAL = {"bos_token": "<|endoftext|>"}


def heard(tokenizer, conversation, turns="all") -> list[list[str]]:
    """What is supervised in each document of a conversation."""
    documents = Chats(tokenizer, "messages", "assistant", turns).documents(rows(conversation), where)
    return [spoken(tokenizer, document) for document in documents]


END = "<|im_end|>"
EMPTY = "<think>\n\n</think>\n\n"
RIGHT = {
    # template, conversation -> supervised runs of each document
    ("SMOLLM2", "greeting"): [["Hello!" + END, "4" + END]],
    ("CHATML", "greeting"): [["Hello!" + END, "4" + END]],
    ("PLAIN", "greeting"): [["Hello!\n", "4\n"]],
    ("LLAMA3", "greeting"): [["Hello!<|eot|>", "4<|eot|>"]],
    ("QWEN3", "greeting"): [[EMPTY + "Hello!" + END], [EMPTY + "4" + END]],
    ("R1", "greeting"): [["Hello!<|endoftext|>", "4<|endoftext|>"]],
    ("SMOLLM2", "two"): [[THOUGHT + "4" + END, THOUGHT + "6" + END]],
    ("LLAMA3", "two"): [[THOUGHT + "4<|eot|>", THOUGHT + "6<|eot|>"]],
    ("QWEN3", "two"): [[THOUGHT + "4" + END], [THOUGHT + "6" + END]],
    ("STRIPS_THINKING", "two"): [[THOUGHT + "4" + END], [THOUGHT + "6" + END]],
    ("R1", "two"): [["\n\n4<|endoftext|>", "\n\n6<|endoftext|>"]],
    ("MARKED", "two"): [["4" + END, THOUGHT + "6" + END]],
    ("GEMMA", "two"): [[THOUGHT + "4<|eot|>", THOUGHT + "6<|eot|>"]],
    ("MISTRAL", "two"): [[f" {THOUGHT}4<|endoftext|>", f" {THOUGHT}6<|endoftext|>"]],
    ("MISTRAL", "system"): [[f" {THOUGHT}4<|endoftext|>"], [f" {THOUGHT}6<|endoftext|>"]],
    ("SMOLLM2", "system"): [[THOUGHT + "4" + END, THOUGHT + "6" + END]],
}
CONVERSATIONS = {"greeting": GREETING, "two": TWO, "system": [*SYSTEM, *TWO]}


@pytest.mark.parametrize(("template", "conversation"), RIGHT)
def test_every_turn_is_supervised_as_it_is_said(template, conversation, kit):
    tokenizer = kit.byte_level(getattr(kit, template), **SPECIAL)
    messages = CONVERSATIONS[conversation]
    assert heard(tokenizer, messages) == RIGHT[template, conversation]
    flat = [run for document in RIGHT[template, conversation] for run in document]
    (last,) = heard(tokenizer, messages, "last")
    assert last == flat[-1:]
    each = heard(tokenizer, messages, "each")
    assert [len(runs) for runs in each] == [1] * len(flat)
    assert each[-1] == last
    with_question = [*messages, {"role": "user", "content": "more?"}]
    assert heard(tokenizer, with_question, "last") == [last]


@pytest.mark.parametrize(
    ("template", "messages", "words"),
    [
        ("GEMMA", [*SYSTEM, *TWO], "System role not supported"),
        ("MISTRAL", GREETING, "roles must alternate"),
        ("GEMMA", GREETING, "roles must alternate"),
        ("{{ messages | length }}", TWO, "does not show which words of message 4 are the assistant's"),
    ],
)
@pytest.mark.parametrize("turns", ["all", "last", "each"])
def test_what_a_template_refuses_names_the_row(template, messages, words, turns, kit):
    tokenizer = kit.byte_level(getattr(kit, template, template), **SPECIAL)
    with pytest.raises(CorpusError) as caught:
        Chats(tokenizer, "messages", "assistant", turns).documents(rows(messages), where)
    assert str(caught.value).startswith("a.jsonl:1: ")
    assert words in str(caught.value) or (turns == "each" and "of message 2" in str(caught.value))


def test_marks_that_mark_nothing_or_something_else_are_not_believed(kit):
    nothing = kit.CHATML + "{% if false %}{% generation %}{% endgeneration %}{% endif %}"
    other = "{% generation %}{{ 'start' }}{% endgeneration %}" + kit.CHATML
    whole = kit.MARKED.replace("{% endgeneration %}{% else %}", "{{ '<|im_end|>\n' }}{% endgeneration %}{% else %}")
    whole = whole.replace("{% endif %}{{ '<|im_end|>\n' }}", "{{ '<|im_end|>\n' }}{% endif %}")
    said = chat("hi", "hello", "so", "well")
    for template in (nothing, other, whole, kit.MARKED):
        assert heard(kit.byte_level(template), said) == [["hello" + END, "well" + END]]


def test_split_chats_and_lost_thoughts_are_counted(kit):
    config = CausalLMConfig(packing="documents")
    table = rows(TWO, TWO[:2], GREETING)
    counts = {}
    for name in ("QWEN3", "R1", "SMOLLM2"):
        task = reader(config, kit.byte_level(getattr(kit, name), **SPECIAL), messages_field="messages")
        examples, counts[name] = task.examples(table, where)
        assert len(examples) == 3 + counts[name].get("split_chats", 0)
    assert counts == {"QWEN3": {"split_chats": 2}, "R1": {"thoughts_left_out": 3}, "SMOLLM2": {}}
    overlong = CausalLMConfig(packing="documents", sequence_length=50)
    task = reader(overlong, kit.byte_level(kit.QWEN3), messages_field="messages")
    with pytest.raises(CorpusError, match=r"^a.jsonl:2: has|^a.jsonl:2 has"):
        task.examples(rows(chat("a", "b"), TWO, TWO), where)


PART = {"type": "text", "text": "Say "}
LISTS = [{"role": "user", "content": [PART, {"type": "text", "text": "yes."}]}]
LISTS += [{"role": "assistant", "content": [{"type": "text", "text": "yes"}]}]


@pytest.mark.parametrize("template", ["CHATML", "INTERPOLATES", "QWEN3", "LLAMA3", "R1", "GEMMA", "PARTS"])
@pytest.mark.parametrize("structs", [False, True])
def test_parts_of_text_are_words(template, structs, kit):
    tokenizer = kit.byte_level(getattr(kit, template), **SPECIAL)
    table = pa.table({"messages": pa.array([LISTS])}) if structs else rows(LISTS)
    (listed,) = Chats(tokenizer, "messages", "all").documents(table, where)
    if template == "PARTS":
        assert "[Say ][yes.]" in tokenizer.decode(listed[0])
        return
    (plain,) = Chats(tokenizer, "messages", "all").documents(rows(chat("Say yes.", "yes")), where)
    assert listed[0].tolist() == plain[0].tolist()
    assert heard(tokenizer, LISTS) == heard(tokenizer, chat("Say yes.", "yes"))


@pytest.mark.parametrize(
    ("part", "got"),
    [
        ({"type": "image", "image": "a.png"}, "type image"),
        ({"type": "input_audio", "input_audio": {"data": ""}}, "type input_audio"),
        ({"type": "text"}, "dict of no such form"),
        ("yes", "str of no such form"),
    ],
)
def test_parts_of_no_text_are_refused(part, got, chatml_tokenizer):
    bad = [*chat("a", "b"), {"role": "user", "content": [PART, part]}]
    with pytest.raises(CorpusError) as caught:
        Chats(chatml_tokenizer, "messages", "assistant").documents(rows(chat("a", "b"), bad), where)
    assert str(caught.value).startswith(f"a.jsonl:2: message 3 has a part of {got}, expected parts of text, ")


ARGUMENTS = {"city": "Paris", "days": 2}


@pytest.mark.parametrize("template", ["INTERPOLATES", "QWEN3"])
@pytest.mark.parametrize("arguments", [ARGUMENTS, json.dumps(ARGUMENTS)])
@pytest.mark.parametrize("structs", [False, True])
def test_arguments_of_tool_calls_are_json(template, arguments, structs, kit):
    tokenizer = kit.byte_level(getattr(kit, template))
    call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
    said = [{"role": "user", "content": "rain?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    said += [{"role": "tool", "content": "no"}, {"role": "assistant", "content": "no"}]
    table = pa.table({"messages": pa.array([said])}) if structs else rows(said)
    (document,) = Chats(tokenizer, "messages", "all").documents(table, where)
    text = tokenizer.decode(document[0])
    assert json.dumps(ARGUMENTS) in text
    assert "'city'" not in text
    assert "None" not in text


def test_what_stays_python_is_refused(kit):
    template = kit.INTERPOLATES.replace("call.function.arguments", "call")
    call = {"function": {"name": "weather", "arguments": ARGUMENTS}}
    said = [{"role": "user", "content": "rain?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    with pytest.raises(CorpusError, match=r"^a.jsonl:1: the chat template writes \{'function': .*Python"):
        Chats(kit.byte_level(template), "messages", "assistant").documents(rows(said), where)


def test_reasoning_is_in_the_text_or_counted(kit):
    said = [chat("hi")[0], {"role": "assistant", "content": "hello", "reasoning_content": "a greeting"}]
    assert heard(kit.byte_level(kit.QWEN3), said) == [["<think>\na greeting\n</think>\n\nhello" + END]]
    nulls = [said[0], {"role": "assistant", "content": "hello", "reasoning_content": None, "tool_calls": None}]
    assert heard(kit.byte_level(kit.QWEN3), nulls) == [[EMPTY + "hello" + END]]
    task = reader(CausalLMConfig(), kit.byte_level(kit.CHATML), messages_field="messages")
    assert task.examples(rows(said, nulls), where)[1] == {"thoughts_left_out": 1}


def text_of(tokenizer, day, conversation=TWO) -> str:
    (document,) = Chats(tokenizer, "messages", "all", "all", day).documents(rows(conversation), where)
    return tokenizer.decode(document[0])


def test_the_day_is_the_one_that_is_given(kit, monkeypatch):
    tokenizer = kit.byte_level(kit.CLOCK)
    for zone in ("Pacific/Kiritimati", "America/Los_Angeles"):
        monkeypatch.setenv("TZ", zone)
        text = text_of(tokenizer, date(2025, 3, 1))
        today = "Saturday, 01 March 2025 (03/01/25, Sat Mar  1 00:00:00 2025, 00:00 )"
        assert text.startswith(f"<|im_start|>system\nToday is {today}<|im_end|>\n<|im_start|>user\n2 + 2?")
    assert "Friday, 28 February 2025" in text_of(tokenizer, date(2025, 2, 28))
    (heard_,) = Chats(tokenizer, "messages", "assistant", "all", date(2025, 3, 1)).documents(rows(TWO), where)
    assert spoken(tokenizer, heard_) == [THOUGHT + "4" + END, THOUGHT + "6" + END]


def test_a_date_string_is_given_where_it_is_asked_for(kit):
    tokenizer = kit.byte_level(kit.DATE_STRING)
    assert text_of(tokenizer, None).startswith("26 Jul 2024")
    assert text_of(tokenizer, date(2025, 3, 1)).startswith("01 Mar 2025")


@pytest.mark.parametrize("day", [date(2024, 2, 29), date(2025, 12, 31), date(2026, 1, 1)])
def test_every_directive_is_what_python_writes(day, kit):
    signs = "aAbBcdDeFgGhHIjkmMnprRStTuUVwWxXyYzZ%"
    form = " ".join(f"%{sign}" for sign in signs) + " %-d %-m %-j %%d"
    tokenizer = kit.byte_level("{{ strftime_now(" + repr(form) + ") }}")
    assert text_of(tokenizer, day) == day.strftime(form)


def test_a_template_before_whose_text_the_clock_is_put_keeps_its_spaces(kit):
    for start in ("\n  a", "  {% if true %} b{% endif %}", "{# c #}\n\nd", "{%- if true %}e{% endif -%}  f"):
        template = start + "{{ strftime_now('%Y') }}" + kit.CHATML
        year = text_of(kit.byte_level(template), date(2025, 3, 1))
        assert year == text_of(kit.byte_level(template.replace("{{ strftime_now('%Y') }}", "2025")), None)


def test_what_is_drawn_is_a_function_of_the_row(kit):
    tokenizer = kit.byte_level(kit.CHANCE)
    chats = [chat(f"question {n}", "hello", "and?", "so") for n in range(30)]
    first, again = (
        [tokenizer.decode(t) for t, _ in Chats(tokenizer, "messages", "assistant").documents(rows(*order), where)]
        for order in (chats, chats[::-1])
    )
    assert first == again[::-1]
    assert len({text[0] for text in first}) > 4


def test_the_chats_of_the_cases(kit):
    path = Path("/work/shared/cases/chats.jsonl")
    if not path.exists():
        pytest.skip("the cases are not here")
    values = [json.dumps(json.loads(line)["messages"]) for line in path.read_text().splitlines()]
    documents = Chats(kit.byte_level(kit.SMOLLM2), "messages", "assistant").documents(
        pa.table({"messages": values}), where
    )
    assert all(np.any(learnable) for _, learnable in documents)
