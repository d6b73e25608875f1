"""filter: the examples of which an expression is true, in their order, whatever the record and the task."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store.making import CLASSES, same_arrays, tokens_and_logits, tree, write_cache

from kdcache import CacheWriter, open_cache
from kdcache.errors import CacheError, ConfigError, KdcacheError
from kdcache.store.filter import filter_cache
from kdcache.store.merge import merge
from kdcache.store.taken import numbers_of, taken_fault, taken_text
from kdcache.store.unit import EXAMPLES_PER_UNIT
from kdcache.store.verify import verify
from kdcache.targets.fields import NO_LABEL

RECORDS: dict[str, Any] = {
    "sampled": {"kind": "sampled", "exact_top_k": 5},
    "drawn": {"kind": "drawn"},
    "top_k": {"kind": "top_k", "k": 5},
    "dense": {"kind": "dense"},
    "labels": None,
}
MOODS = ["joy", "anger", "fear"]


def numbers(path: Path) -> list[int]:
    """Of the examples of a filtered cache, their numbers in its source."""
    lines = [line for shard in open_cache(path).manifest.shards for line in shard.taken or ()]
    found = [unit * EXAMPLES_PER_UNIT + index for unit, index in map(numbers_of, lines)]
    return np.concatenate(found).tolist()


def write_moods(path: Path, task: str = "sequence_classification", count: int = 30) -> list[Any]:
    """A classification; the labels of each example."""
    rng, labels = np.random.default_rng(5), []
    with CacheWriter(path, num_classes=3, task={"name": task}, labels=MOODS, examples_per_shard=7) as writer:
        for _ in range(count):
            positions = rng.integers(1, 4) if task == "token_classification" else 1
            labels.append(rng.choice([NO_LABEL, 0, 1, 2], positions))
            if task == "multilabel_classification":
                labels[-1] = rng.integers(0, 2, (1, 3))
            own = {"positions": np.arange(positions)} if task == "token_classification" else {}
            logits = rng.normal(0, 2, (positions, 3)).astype(np.float32)
            writer.add(rng.integers(0, 90, positions + 2), logits, labels=labels[-1], **own)
    return labels


@pytest.mark.parametrize("record", RECORDS)
def test_what_stays_is_as_it_was(tmp_path: Path, backend_name: str, record: str) -> None:
    write_cache(tmp_path / "all", 30, record=RECORDS[record], backend=backend_name)
    manifest = filter_cache(tmp_path / "all", tmp_path / "some", "length > 6 and positions < 11")
    before, after = open_cache(tmp_path / "all"), open_cache(tmp_path / "some")
    whole = before.read(0, 30)
    kept = [i for i in range(30) if len(whole.tokens(i)) > 6 and len(whole.positions(i)) < 11]
    assert 3 < len(kept) < 27
    assert same_arrays(after.read(0, len(after)).arrays, whole.take(kept).arrays)
    assert numbers(tmp_path / "some") == [i // 4 * EXAMPLES_PER_UNIT + i % 4 for i in kept]
    assert verify(tmp_path / "some") == []
    (pin,) = manifest.header.sources or ()
    assert (pin.cache_sha256, pin.examples, pin.where) == (before.digest, 30, "length > 6 and positions < 11")
    filter_cache(tmp_path / "all", tmp_path / "again", "length>6 and(positions<11)")
    assert tree(tmp_path / "again") == tree(tmp_path / "some")


def test_a_factored_cache_keeps_its_basis_and_its_parts_merge_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layer = rng.normal(0, 1, (CLASSES, 16)).astype(np.float32), None
    more: dict[str, Any] = {"record": {"kind": "factored", "rank": 8, "exact_top_k": 4}, "output_layer": layer}
    more["calibration"] = rng.normal(0, 1, (200, 16)).astype(np.float32)
    with CacheWriter(tmp_path / "all", num_classes=CLASSES, examples_per_shard=3, **more) as writer:
        for tokens, _ in tokens_and_logits(12):
            writer.add(tokens, hidden=rng.normal(0, 1, (len(tokens) - 1, 16)).astype(np.float32))
    for name, where in (("a", "unit < 2"), ("b", "not unit < 2")):
        filter_cache(tmp_path / "all", tmp_path / name, where)
        assert verify(tmp_path / name) == []
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "ab")
    first, second = open_cache(tmp_path / "all"), open_cache(tmp_path / "ab")
    assert same_arrays(first.read(0, 12).arrays, second.read(0, 12).arrays)
    entropies = [cache.read(0, 12).targets().entropy(2.0).numpy().tolist() for cache in (first, second)]
    assert entropies[0] == entropies[1]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_merge_then_filter_by_source_gives_back_the_originals(
    tmp_path_factory: pytest.TempPathFactory, backend_name: str, data: st.DataObject
) -> None:
    tmp_path = tmp_path_factory.mktemp("there-and-back")
    counts = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=3))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=3, max_size=3))
    sources = [tmp_path / str(number) for number in range(len(counts))]
    for number, (source, count) in enumerate(zip(sources, counts, strict=True)):
        write_cache(source, count + 1, seed=10 + number, examples_per_shard=sizes[number], backend=backend_name)
    merge(sources, tmp_path / "all")
    for number, source in enumerate(sources):
        try:
            filter_cache(tmp_path / "all", tmp_path / f"back{number}", f"source == {number}")
        except CacheError:
            assert open_cache(source).num_positions == 0
            continue
        first, second = open_cache(source), open_cache(tmp_path / f"back{number}")
        assert same_arrays(first.read(0, len(first)).arrays, second.read(0, len(second)).arrays)


def test_entropies_and_agreement_are_those_of_the_records(tmp_path: Path) -> None:
    write_cache(tmp_path / "all", 30)
    whole = open_cache(tmp_path / "all").read(0, 30)
    targets, ends = whole.targets(), np.cumsum(whole.arrays["position_counts"])
    entropies = np.split(targets.entropy(2.0).numpy(), ends[:-1])
    agree = np.split(targets.top_P.numpy() == whole.labels, ends[:-1])
    expected = {
        "mean_entropy(2) > 1.5": [len(e) > 0 and e.mean() > 1.5 for e in entropies],
        "max_entropy(2.0) <= 2 or length == 1": [len(e) == 0 or e.max() <= 2 for e in entropies],
        "0 < agreement <= 0.5": [len(a) > 0 and 0 < a.mean() <= 0.5 for a in agree],
    }
    for number, (where, wanted) in enumerate(expected.items()):
        filter_cache(tmp_path / "all", tmp_path / str(number), where)
        assert numbers(tmp_path / str(number)) == [i // 4 * EXAMPLES_PER_UNIT + i % 4 for i in np.flatnonzero(wanted)]
        assert 0 < sum(wanted) < 30


def test_labels_are_asked_by_their_names(tmp_path: Path) -> None:
    def kept(name: str, where: str) -> list[int]:
        target = tmp_path / f"{name} {where}"
        filter_cache(tmp_path / name, target, where)
        return [number // EXAMPLES_PER_UNIT * 7 + number % EXAMPLES_PER_UNIT for number in numbers(target)]

    labels = write_moods(tmp_path / "one")
    assert kept("one", "label == 'joy'") == [i for i, own in enumerate(labels) if own[0] == 0]
    assert kept("one", "label in ('joy', 'fear')") == [i for i, own in enumerate(labels) if own[0] in (0, 2)]
    assert kept("one", "label != 'joy'") == [i for i, own in enumerate(labels) if own[0] != 0]
    labels = write_moods(tmp_path / "words", "token_classification")
    assert kept("words", "has('anger')") == [i for i, own in enumerate(labels) if 1 in own]
    labels = write_moods(tmp_path / "many", "multilabel_classification")
    assert kept("many", "has('fear') and not has('joy')") == [
        i for i, own in enumerate(labels) if own[0, 2] > own[0, 0]
    ]
    with pytest.raises(ConfigError, match=r"label: an example has several labels at once; ask has\(NAME\)"):
        filter_cache(tmp_path / "many", tmp_path / "no", "label == 'joy'")
    with pytest.raises(ConfigError, match=r"which asks for the label 'jo', expected one of joy, anger, fear"):
        filter_cache(tmp_path / "one", tmp_path / "no", "label == 'jo'")
    with pytest.raises(CacheError, match=r"has \d labels, expected one for label; ask has\(NAME\)"):
        filter_cache(tmp_path / "words", tmp_path / "no", "label == 'joy'")
    with CacheWriter(tmp_path / "scores", num_classes=1, task={"name": "regression"}, record=None) as writer:
        for number in range(5):
            writer.add([1, 2, 3], labels=[[number / 2]])
    filter_cache(tmp_path / "scores", tmp_path / "high", "label >= 1")
    assert numbers(tmp_path / "high") == [2, 3, 4]


def test_numbers_in_a_file_and_a_random_share(tmp_path: Path) -> None:
    write_cache(tmp_path / "all", 200, examples_per_shard=100)
    (tmp_path / "keep.txt").write_text("3, 5-9\n1048580 7 1-2\n")
    manifest = filter_cache(tmp_path / "all", tmp_path / "kept", f"number in ids('{tmp_path}/keep.txt')")
    assert numbers(tmp_path / "kept") == [1, 2, 3, 5, 6, 7, 8, 9, 1048580]
    (pin,) = manifest.header.sources or ()
    assert pin.where is not None
    assert pin.where.startswith("number in ids('keep.txt', sha256='")
    shares = []
    for seed in (1, 2):
        filter_cache(tmp_path / "all", tmp_path / f"share{seed}", f"random({seed}) < 0.3")
        shares.append({*numbers(tmp_path / f"share{seed}")})
        assert 35 < len(shares[-1]) < 85
    assert shares[0] != shares[1]


def test_an_interrupted_filter_goes_on_also_after_a_lost_unit(tmp_path: Path, backend_name: str) -> None:
    write_cache(tmp_path / "all", 60, backend=backend_name)
    where = "random(3) < 0.4"
    steps: list[int] = []

    def interrupt(count: int) -> None:
        steps.append(count)
        if len(steps) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filter_cache(tmp_path / "all", tmp_path / "some", where, interrupt)
    units = sorted((tmp_path / "some/shards/000").glob("*.json"))
    assert len(units) > 2
    before = {path: path.stat().st_mtime_ns for path in units}
    units[1].unlink()
    done: list[int] = []
    filter_cache(tmp_path / "all", tmp_path / "some", where, done.append)
    assert sum(done) == 15
    filter_cache(tmp_path / "all", tmp_path / "fresh", where)
    assert tree(tmp_path / "some") == tree(tmp_path / "fresh")
    assert {path for path in units if path.stat().st_mtime_ns == before[path]} == {*units} - {units[1]}


def test_all_that_stays_keeps_its_shards(tmp_path: Path) -> None:
    write_cache(tmp_path / "all", 12)
    filter_cache(tmp_path / "all", tmp_path / "same", "length > 0")
    assert open_cache(tmp_path / "same").shard_examples.tolist() == [4, 4, 4]


def test_a_result_of_nothing_is_refused(tmp_path: Path) -> None:
    write_cache(tmp_path / "all")
    for where in ("length > 5000", "positions == 0"):
        with pytest.raises(CacheError, match=r"true of no example with a supervised position among the 10 of"):
            filter_cache(tmp_path / "all", tmp_path / where.replace(" ", ""), where)
        with pytest.raises(KdcacheError, match="is not finished"):
            open_cache(tmp_path / where.replace(" ", ""))
    filter_cache(tmp_path / "all", tmp_path / "length>5000", "length > 5")
    with pytest.raises(CacheError, match="already holds another finished cache, expected a new folder"):
        filter_cache(tmp_path / "all", tmp_path / "length>5000", "length > 6")


REFUSED = {
    "length": "has the number length for a condition, expected a comparison",
    "length >": "is no expression",
    "": "is no expression",
    "lenght > 3": r"asks for lenght, expected one of length, .*; did you mean length\?",
    "length > 'a'": "compares length with 'a', expected two numbers",
    "length < 3 < 'a'": "compares 3 with 'a'",
    "length + 'a' > 3": "computes with 'a', expected a number",
    "mean_entropy > 3": r"has mean_entropy, expected mean_entropy\(…\), with what it needs",
    "length(3) > 3": "has length, expected length alone",
    "mean_entropy(1, 2) > 3": "got 2 values for mean_entropy",
    "mean_entropy(0) > 3": "got a temperature 0, expected a number above 0",
    "mean_entropy('1') > 3": "got a temperature '1'",
    "mean_entropy(length) > 3": "gives length to mean_entropy, expected a number or a text",
    "random(0.5) < 1": "got the seed 0.5, expected a whole number",
    "label == 'joy'": "the labels of a language model are the next tokens",
    "has('joy')": "the labels of a language model are the next tokens",
    "source == 0": "the cache was not merged of several",
    "number in 3": "has 3 after in, expected a list",
    "number in ()": r"has \(\) after in",
    "number in (1, 'a')": "expected a list of numbers",
    "number in (length, 2)": "expected a list of numbers",
    "'a' in ids('x')": "looks for 'a' in a file of numbers",
    "number in ids('not/there')": r"got ids\('not/there'\), expected a file",
    "number in ids('/dev/zero')": r"got ids\('/dev/zero'\), expected a file",
    "number in ids(3)": r"has ids\(3\), expected the name of a file",
    "ids('x')": r"asks for ids",
    "().__class__.__bases__[0].__subclasses__()": r"has \(\)\.__class__",
    "__import__('os').system('true') == 0": r"has __import__\('os'\)\.system\('true'\)",
    "open('x') == 3": "asks for open",
    "[x for x in (1, 2)] == 3": "has ",
    "(lambda: 3)() == 3": "has ",
    "length ** 999999999 > 3": r"has length \*\* 999999999",
    "length > 3 if True else False": "has ",
    "f'{length}' == 'a'": "has ",
    "(x := 3) == 3": "has ",
    "-'a' == 3": "computes with 'a'",
    "not " * 2400 + "True": "is nested too deeply",
    "length" + " + 1" * 3000 + " > 3": "--where of 12,",
    f"length > 1{'0' * 400}": "is no expression",
    "length > 3j": "has 3j",
    "length > None": "has None",
}


@pytest.mark.parametrize("where", REFUSED, ids=lambda where: where[:30])
def test_what_is_no_expression_is_told_before_anything_is_written(tmp_path: Path, where: str) -> None:
    write_cache(tmp_path / "all")
    with pytest.raises(ConfigError, match=REFUSED[where]) as refused:
        filter_cache(tmp_path / "all", tmp_path / "out", where)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_records_that_do_not_answer_are_named(tmp_path: Path) -> None:
    write_cache(tmp_path / "labels", record=None)
    with pytest.raises(ConfigError, match="the cache holds labels and no distributions of a teacher"):
        filter_cache(tmp_path / "labels", tmp_path / "out", "agreement > 0.5")
    write_cache(tmp_path / "drawn", record={"kind": "drawn"})
    with pytest.raises(ConfigError, match=r"its records do not answer the temperature 2"):
        filter_cache(tmp_path / "drawn", tmp_path / "out", "mean_entropy(2) > 0.5")
    filter_cache(tmp_path / "drawn", tmp_path / "out", "mean_entropy(1) > 0.5")


@given(st.sets(st.integers(0, 60), min_size=1), st.integers(0, 9))
def test_the_line_of_a_shard_says_which_were_taken(chosen: set[int], unit: int) -> None:
    line = taken_text(unit, np.array(sorted(chosen)))
    found, numbers_ = numbers_of(line)
    assert (found, numbers_.tolist()) == (unit, sorted(chosen))
    assert taken_fault([line], len(chosen)) is None
    assert taken_fault([line], len(chosen) + 1) is not None
    assert taken_fault([line, line], 2 * len(chosen)) is not None
