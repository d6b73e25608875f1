import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers import reader

from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import ConfigError, CorpusError
from kdcache.tasks import task_of
from kdcache.tasks.causal_lm import CausalLM, CausalLMConfig


def where(row: int) -> str:
    return f"a.jsonl:{row + 1}"


def table(*texts: object, kind: pa.DataType | None = None) -> pa.Table:
    return pa.table({"text": pa.array(texts, kind)})


texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, st.integers(2, 20), st.sampled_from(["document", "causal"]))
def test_windows_hold_each_document_ended_once(gpt_tokenizer, found, length, attention):
    end = gpt_tokenizer.eos_token_id
    task = reader(CausalLMConfig(sequence_length=length, attention=attention), gpt_tokenizer)
    examples, notes = task.examples(table(*found, kind=pa.string()), where)
    documents = [[*gpt_tokenizer(text)["input_ids"], end] for text in found if text]
    stream = [token for document in documents for token in document]
    packed = [token for example in examples for token in example.tokens.tolist()]
    assert notes.get("empty", 0) == found.count("")
    if "unsupervised" not in notes:
        assert packed == stream
        if attention == "document":
            pieces = [piece for example in examples for piece in example.documents.tolist()]
            assert np.cumsum(pieces).tolist() == sorted(
                {*np.cumsum([len(d) for d in documents]).tolist(), *range(length, len(stream), length)}
            )
    again, _ = reader(CausalLMConfig(sequence_length=length, attention=attention), gpt_tokenizer).examples(
        table(*found, kind=pa.large_string()), where
    )
    assert [e.tokens.tolist() for e in again] == [e.tokens.tolist() for e in examples]


def test_a_tokenizer_that_ends_documents_itself_is_left_to_it(llama_tokenizer):
    task = reader(CausalLMConfig(sequence_length=64), llama_tokenizer)
    (example,), notes = task.examples(table("hello world", "hello</s>"), where)
    start, end = llama_tokenizer.bos_token_id, llama_tokenizer.eos_token_id
    assert example.tokens.tolist().count(start) == example.tokens.tolist().count(end) == 2
    assert example.tokens[-1] == end
    assert example.tokens[np.cumsum(example.documents)[:-1]].tolist() == [start]
    assert notes == {}


@pytest.mark.parametrize("packing", ["windows", "documents"])
def test_every_document_is_taught_to_end(gpt_tokenizer, llama_tokenizer, packing):
    """The end of text is a label after the last word, once, also where the text or the tokenizer has put it."""
    config = CausalLMConfig(packing=packing, sequence_length=64)
    for tokenizer, end in ((gpt_tokenizer, "<|endoftext|>"), (llama_tokenizer, "</s>")):
        examples, _ = reader(config, tokenizer).examples(table("hello world", "how are you", "fine" + end), where)
        labels = np.concatenate([example.labels for example in examples])
        assert (labels == tokenizer.eos_token_id).sum() == 3
    without = config.model_copy(update={"end_of_text": False})
    examples, _ = reader(without, gpt_tokenizer).examples(table("hello world", "how are you"), where)
    stream = [token for example in examples for token in example.tokens.tolist()]
    plain = gpt_tokenizer(["hello world", "how are you"])["input_ids"]
    assert stream == [token for tokens in plain for token in tokens]


def test_documents_are_what_the_tokenizer_makes_of_them(llama_tokenizer):
    task = reader(CausalLMConfig(packing="documents"), llama_tokenizer)
    examples, notes = task.examples(table("hello world", "", "how are you"), where)
    end = llama_tokenizer.eos_token_id
    plain = llama_tokenizer(["hello world", "how are you"])["input_ids"]
    assert [e.tokens.tolist() for e in examples] == [[*tokens, end] for tokens in plain]
    assert [e.documents.tolist() for e in examples] == [[len(e.tokens)] for e in examples]
    assert notes == {"empty": 1}


@pytest.mark.parametrize(("overlong", "lengths"), [("truncate", [6, 8]), ("drop", [6])])
def test_overlong_documents(gpt_tokenizer, overlong, lengths):
    """What is cut short has no end of text."""
    config = CausalLMConfig(packing="documents", sequence_length=8, overlong=overlong)
    rows = table("@@@@@", "@" * 9)
    examples, notes = reader(config, gpt_tokenizer).examples(rows, where)
    assert [len(e.tokens) for e in examples] == lengths
    assert [e.tokens[-1] == gpt_tokenizer.eos_token_id for e in examples] == [length == 6 for length in lengths]
    assert notes == {"truncated" if overlong == "truncate" else "dropped": 1}


def test_an_overlong_document_is_an_error_by_default(gpt_tokenizer):
    task = reader(CausalLMConfig(packing="documents", sequence_length=8), gpt_tokenizer)
    words = r"^a.jsonl:2 has 9 tokens with its end of text, expected at most task.sequence_length 8; set"
    with pytest.raises(CorpusError, match=words):
        task.examples(table("@@@@@", "@" * 8), where)
    assert len(task.examples(table("@" * 7), where)[0]) == 1


def test_an_example_without_positions_is_left_out_and_counted(gpt_tokenizer):
    task = reader(CausalLMConfig(packing="documents", end_of_text=False), gpt_tokenizer)
    examples, notes = task.examples(table("@", "@@"), where)
    assert (len(examples), notes) == (1, {"unsupervised": 1})


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (table("a", None), "^a.jsonl:2: text is null, expected a string"),
        (table(None), "^a.jsonl:1: text is null"),
        (table(1), "^a.jsonl:1: text is int64, expected a string"),
        (table(["a"]), "^a.jsonl:1: text is list<.*>, expected a string"),
    ],
)
def test_a_text_that_is_none(gpt_tokenizer, rows, words):
    with pytest.raises(CorpusError, match=words):
        reader(CausalLMConfig(), gpt_tokenizer).examples(rows, where)


@pytest.mark.parametrize("packing", ["windows", "documents"])
def test_documents_need_an_end_of_text_token(kit, packing):
    tokenizer = kit.byte_level()
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match=r"without an end-of-text token.*set its eos_token, or task.end_of_text"):
        reader(CausalLMConfig(packing=packing), tokenizer)
    reader(CausalLMConfig(packing=packing, end_of_text=False), tokenizer)


def test_the_registry_makes_the_task(gpt_tokenizer):
    corpus = CorpusConfig(paths=("a",), format="jsonl", text_field="body")
    task = task_of({"sequence_length": 16})
    assert isinstance(task, CausalLM)
    assert task.settings == CausalLMConfig(sequence_length=16)
    assert len(task.reader(gpt_tokenizer, corpus).examples(pa.table({"body": ["hello"]}), where)[0]) == 1


def test_long_texts_give_no_warning(gpt_tokenizer, caplog, recwarn):
    gpt_tokenizer.model_max_length, before = 4, gpt_tokenizer.model_max_length
    reader(CausalLMConfig(), gpt_tokenizer).examples(table("hello world " * 50), where)
    gpt_tokenizer.model_max_length = before
    assert not recwarn.list
    assert not caplog.records
