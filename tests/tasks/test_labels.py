from types import SimpleNamespace

import pytest

from kdcache.errors import ConfigError, CorpusError
from kdcache.targets.fields import NO_LABEL
from kdcache.tasks.labels import Labels, teacher_labels


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
