"""The assistant's mask: what is learnable, decoded, is what the assistant said and the end of its turn."""

import numpy as np
import pyarrow as pa
import pytest
from chats import chat, rows, spoken, where
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import reader

from kdcache.errors import ConfigError, CorpusError
from kdcache.tasks.causal_lm import CausalLMConfig
from kdcache.tasks.chat import Chats

CASES = {
    "chatml": (lambda kit: kit.byte_level(kit.CHATML), "{}<|im_end|>"),
    "smollm2": (lambda kit: kit.byte_level(kit.SMOLLM2), "{}<|im_end|>"),
    "llama3": (lambda kit: kit.byte_level(kit.LLAMA3, bos_token="<|endoftext|>"), "{}<|eot|>"),
    "llama2": (
        lambda kit: kit.byte_level(kit.LLAMA2, bos_token="<|im_start|>", eos_token="<|im_end|>"),
        " {} <|im_end|>",
    ),
    "llama2-sentencepiece": (lambda kit: kit.sentence_piece_like(kit.LLAMA2), "{} </s>"),
    "plain": (lambda kit: kit.byte_level(kit.PLAIN), "{}\n"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("system", [None, "be brief"])
def test_what_is_learnable_is_what_the_assistant_said(case, system, kit):
    make, form = CASES[case]
    tokenizer = make(kit)
    said = [("hi", "hello, I am fine."), ("idée 深い", "🌊 naïvement"), ("user asks", "assistant answers: a\n\n b")]
    chats = [chat(*turns, system=system) for turns in said]
    chats.append(chat(*[turn for turns in said for turn in turns], system=system))
    documents = Chats(tokenizer, "messages", "assistant").documents(rows(*chats), where)
    expected = [form.format(answer) for _, answer in said]
    assert [spoken(tokenizer, document) for document in documents] == [*([text] for text in expected), expected]
    whole = tokenizer.apply_chat_template(chats[-1], tokenize=False)
    assert documents[-1][0].tolist() == tokenizer(whole, add_special_tokens=False)["input_ids"]


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(turns=st.lists(st.tuples(words, words), min_size=1, max_size=4), ends_with_user=st.booleans())
def test_any_words_in_chatml(chatml_tokenizer, turns, ends_with_user):
    flat = [turn for pair in turns for turn in pair] + ["one more?"] * ends_with_user
    (document,) = Chats(chatml_tokenizer, "messages", "assistant").documents(rows(chat(*flat)), where)
    tokens, learnable = document
    said = "".join(answer + "<|im_end|>" for _, answer in turns)
    assert "".join(spoken(chatml_tokenizer, document)) == said
    assert not learnable[0]
    assert tokens[learnable].tolist().count(chatml_tokenizer.convert_tokens_to_ids("<|im_end|>")) == len(turns)


def test_merges_across_the_border_do_no_harm(kit):
    tokenizer = kit.characters(kit.PLAIN)
    whole = "user:hi\nassistant:hello\n"
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(whole)["input_ids"])
    assert any(":" in piece and "h" in piece for piece in pieces), f"no token crosses into the content: {pieces}"
    (document,) = Chats(tokenizer, "messages", "assistant").documents(rows(chat("hi", "hello")), where)
    assert document[0].tolist() == tokenizer(whole)["input_ids"]
    starts = np.cumsum([0, *map(len, pieces)])[:-1]
    assert document[1].tolist() == (starts >= len("user:hi\nassistant:")).tolist()


def test_a_template_that_changes_earlier_turns_gives_an_example_a_turn(kit):
    tokenizer = kit.byte_level(kit.STRIPS_THINKING)
    chats = Chats(tokenizer, "messages", "assistant")
    thought = "<think>\nhm\n</think>\n\nhello"
    (document,) = chats.documents(rows(chat("hi", thought)), where)
    assert spoken(tokenizer, document) == [thought + "<|im_end|>"]
    split = chats.documents(rows(chat("hi", thought, "and?", "well")), where)
    assert [spoken(tokenizer, document) for document in split] == [[thought + "<|im_end|>"], ["well<|im_end|>"]]
    everything = Chats(tokenizer, "messages", "all").documents(rows(chat("hi", thought, "and?", "well")), where)
    assert everything[0][1].all()


@pytest.mark.parametrize(
    ("template", "turns", "words"),
    [
        ("LLAMA2", ["hi", "hello", "yes"], None),
        ("LLAMA2", [], "messages is an empty list"),
        ("{{ raise_exception('no') }}", ["hi", "hello"], "does not take the first 2 messages: no"),
        ("{{ messages[0]['content'] + 5 }}", ["hi", "hello"], "does not take the first 2 messages"),
    ],
)
def test_a_conversation_that_the_template_refuses(template, turns, words, kit):
    chats = Chats(kit.byte_level(getattr(kit, template, template), bos_token="<|im_start|>"), "messages", "assistant")
    if words is None:
        assert len(chats.documents(rows(chat(*turns)), where)) == 1
        turns_out_of_order = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
        with pytest.raises(CorpusError, match=r"^a.jsonl:1: .* roles must alternate"):
            chats.documents(rows(turns_out_of_order), where)
    else:
        with pytest.raises(CorpusError, match=f"^a.jsonl:1: .*{words}"):
            chats.documents(rows(chat(*turns)), where)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("hello", "text that is not JSON"),
        ('"hello"', "str"),
        ('{"role": "user"}', "dict"),
        ('["hello"]', "str as message 1"),
        ('[{"role": "user", "content": "a"}, {"from": "gpt", "value": "b"}]', "message 2 with from, value"),
        ('[{"role": "user", "content": null}]', "message 1 with role"),
        ('[{"role": "user", "content": 5}]', "message 1 with role, content"),
        (None, "null"),
    ],
)
def test_messages_of_the_wrong_shape(value, words, chatml_tokenizer):
    table = pa.table({"messages": pa.array(['[{"role": "user", "content": "a"}]', value], pa.string())})
    with pytest.raises(CorpusError) as caught:
        Chats(chatml_tokenizer, "messages", "assistant").documents(table, where)
    assert str(caught.value) == f"a.jsonl:2: messages is {words}, expected a list of {{role, content}}"


def test_structs_with_empty_keys_are_like_json_without_them(kit):
    template = kit.CHATML.replace(
        "message['content']", "(message['content'] if 'tool_calls' not in message else 'CALLS')"
    )
    tokenizer = kit.byte_level(template)
    conversation = chat("hi", "hello")
    structs = pa.table({"messages": pa.array([[m | {"tool_calls": None} for m in conversation]])})
    one, other = (Chats(tokenizer, "messages", "assistant").documents(t, where) for t in (structs, rows(conversation)))
    assert one[0][0].tolist() == other[0][0].tolist()


def test_tokenizers_that_cannot_do_chats_are_refused(kit):
    with pytest.raises(ConfigError, match="without a chat template"):
        Chats(kit.byte_level(), "messages", "assistant")


def test_chats_in_windows_and_as_documents(chatml_tokenizer):
    chats = rows(chat("hi", "hello"), chat("how", "fine", "so", "well"))
    documents = Chats(chatml_tokenizer, "messages", "assistant").documents(chats, where)
    windows, notes = reader(CausalLMConfig(sequence_length=7), chatml_tokenizer, messages_field="messages").examples(
        chats, where
    )
    stream = np.concatenate([tokens for tokens, _ in documents])
    learnable = np.concatenate([may for _, may in documents])
    kept = [window for window in range(0, len(stream), 7) if learnable[window + 1 : window + 7].any()]
    assert notes.get("unsupervised", 0) == -(-len(stream) // 7) - len(kept)
    assert [e.tokens.tolist() for e in windows] == [stream[at : at + 7].tolist() for at in kept]
    supervised = {at + int(t) + 1 for at, e in zip(kept, windows, strict=True) for t in e.positions}
    first_of_piece = {0, len(documents[0][0]), *range(0, len(stream), 7)}
    assert supervised == {int(t) for t in np.flatnonzero(learnable)} - first_of_piece
    each, _ = reader(CausalLMConfig(packing="documents"), chatml_tokenizer, messages_field="messages").examples(
        chats, where
    )
    assert [e.tokens.tolist() for e in each] == [tokens.tolist() for tokens, _ in documents]
    assert [len(e.positions) for e in each] == [int(may.sum()) for _, may in documents]


def test_chats_with_nothing_supervised_are_left_out(chatml_tokenizer):
    task = reader(CausalLMConfig(packing="documents"), chatml_tokenizer, messages_field="messages")
    assert task.examples(rows(chat("hi"), chat("hi")), where) == ([], {"unsupervised": 2})
