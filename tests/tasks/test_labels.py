from types import SimpleNamespace

import pytest

from kdcache.errors import ConfigError, CorpusError
from kdcache.targets.fields import NO_LABEL
from kdcache.tasks.label_map import LabelMap
from kdcache.tasks.labels import Labels, near_twins, teacher_labels


def where(row: int) -> str:
    return f"rows.jsonl:{row + 1}"


def test_labels_of_a_corpus_are_sorted_with_outside_first() -> None:
    assert Labels.found(["b", None, "O", "B-X", "b"], "label").names == ("O", "B-X", "b")
    for labels in ([], [None], ["one", "one"]):
        with pytest.raises(CorpusError, match="expected at least two"):
            Labels.found(labels, "label")


def test_ids_and_what_is_not_known() -> None:
    labels = Labels(["ham", "spam"])
    assert [labels.id(name, 0, where) for name in ("spam", "ham", None)] == [1, 0, NO_LABEL]
    with pytest.raises(CorpusError, match=r"rows.jsonl:8: got label eggs, expected one of ham, spam \(task.labels\)"):
        labels.id("eggs", 7, where)
    assert labels.counts([1, 1, NO_LABEL, 0]) == {"labelled ham": 1, "labelled spam": 2}


def test_a_teacher_names_its_classes_or_the_config_does() -> None:
    named = SimpleNamespace(id2label={0: "no", 1: "yes"})
    generic = SimpleNamespace(id2label={0: "LABEL_0", 1: "LABEL_1"})
    assert teacher_labels(named, None).names == ("no", "yes")
    assert teacher_labels(generic, None).names == ("0", "1")
    assert teacher_labels(generic, ["ham", "spam"]).names == ("ham", "spam")
    assert teacher_labels(named, ["no", "yes"]).names == ("no", "yes")
    for given in (["yes", "no"], ["no", "yes", "maybe"]):
        with pytest.raises(ConfigError, match="expected those of the teacher: no, yes"):
            teacher_labels(named, given)
    with pytest.raises(ConfigError, match="2 of them"):
        teacher_labels(generic, ["a", "b", "c"])
    with pytest.raises(CorpusError, match=r"set task\.labels"):
        teacher_labels(generic, None).id("ham", 0, where)


def test_a_map_renames_and_a_rest_takes_what_is_left() -> None:
    labels = Labels(["positive", "negative", "other"], mapped=LabelMap({"pos": "positive", "0": "negative"}, "other"))
    names = ["pos", "0", "positive", "odd", "odd"]
    assert [labels.names[labels.id(name, 0, where)] for name in names] == [
        *("positive", "negative", "positive", "other", "other")
    ]
    assert (labels.mapped.rested, labels.mapped.unused) == ({"odd": 2}, [])
    with pytest.raises(ConfigError, match=r"got task.label_map pos: Positive, expected one of positive, negative"):
        Labels(["positive", "negative"], mapped=LabelMap({"pos": "Positive"}))
    with pytest.raises(ConfigError, match=r"got task.rest_class other, expected one of a, b"):
        Labels(["a", "b"], mapped=LabelMap(rest="other"))
    swapped = Labels(["a", "b"], mapped=LabelMap({"a": "b", "b": "a"}))
    assert [swapped.id(name, 0, where) for name in "ab"] == [1, 0]


def test_kinds_of_entities_are_renamed_and_dropped_with_both_their_tags() -> None:
    tags = ("O", "B-PERSON", "I-PERSON", "B-LOC", "I-LOC")
    mapped = LabelMap({"PER": "PERSON", "MISC": "O", "B-GPE": "B-LOC", "I-GPE": "I-LOC"}, bio=True)
    labels = Labels(tags, mapped=mapped)
    given = ["B-PER", "I-PER", "B-MISC", "I-MISC", "B-GPE", "I-GPE", "B-LOC", "O"]
    assert [labels.renamed(tag) for tag in given] == [*tags[1:3], "O", "O", *tags[3:], "B-LOC", "O"]
    assert [Labels(tags, mapped=LabelMap(rest="O", bio=True)).renamed(tag) for tag in ("I-MISC", "I-LOC")] == [
        "O",
        "I-LOC",
    ]
    assert set(Labels.found(given, "tags", mapped).names) == {*tags}
    with pytest.raises(ConfigError, match=r"got task.label_map PER: HUMAN"):
        Labels(tags, mapped=LabelMap({"PER": "HUMAN"}, bio=True))


def test_classes_of_a_corpus_under_a_map() -> None:
    assert Labels.found(["1", "5", "3"], "label", LabelMap({"1": "bad", "5": "good"})).names == ("3", "bad", "good")
    assert Labels.found(["a", "b"], "label", LabelMap(rest="c")).names == ("a", "b", "c")
    assert Labels.found(["1", "5", "3"], "label", LabelMap({"1": "bad", "5": "good"}, "so")).names == (
        "bad",
        "good",
        "so",
    )


def test_numbers_of_a_table_are_whole_or_scores() -> None:
    labels = Labels.found(["1.0", "0.0", "10.0"], "label")
    assert labels.names == ("0", "1", "10")
    assert labels.id("10.0", 0, where) == 2
    with pytest.raises(CorpusError, match=r"got the number 0.8 as a label .* set task.name: regression"):
        Labels.found(["0.0", "0.8", "1.6"], "label")
    with pytest.raises(CorpusError, match=r"rows.jsonl:3: got label 0.8, expected one of .* regression"):
        labels.id("0.8", 2, where)
    with pytest.raises(CorpusError, match=r"got .'sport', 'money'. as a label .* set task.name: multilabel_cl"):
        Labels.found(["['sport', 'money']", "['sport']"], "label")
    with pytest.raises(CorpusError, match=r"got label .2, 7., expected one of .* several labels for a text"):
        labels.id("[2, 7]", 2, where)
    assert Labels.found(["1.0", "v2"], "label").names == ("1.0", "v2")
    assert Labels(["1.5", "2.5"]).id("2.5", 0, where) == 1


def test_names_that_are_nearly_one() -> None:
    assert near_twins(
        ["good", "good ", "Good", "bad", "ｂａｄ", "caf\u00e9", "cafe\u0301", "Straße", "STRASSE", "a", "b"]
    ) == [*(["good", "good ", "Good"], ["bad", "ｂａｄ"], ["caf\u00e9", "cafe\u0301"], ["Straße", "STRASSE"])]
    with pytest.raises(
        CorpusError, match=r"got label Good, expected one of bad, good .* set task.label_map: .'Good': good"
    ):
        Labels(["bad", "good"]).id("Good", 0, where)
