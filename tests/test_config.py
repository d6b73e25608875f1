import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdcache.config.base import Config
from kdcache.config.file import load_config
from kdcache.dump.settings import DumpConfig
from kdcache.errors import ConfigError
from kdcache.train.settings import TrainConfig

DUMP = {"output": "out", "corpus": {"paths": "a.jsonl", "format": "jsonl"}, "teacher": {"path": "t"}}
TRAIN = {"cache": "c", "output": "out", "student": {"path": "s"}, "steps": 10}
REPO = Path(__file__).parent.parent


def write(tmp_path: Path, data: object) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def test_defaults_and_overrides(tmp_path: Path) -> None:
    config = load_config(
        DumpConfig,
        write(tmp_path, DUMP),
        ["task.sequence_length=64", "corpus.paths=[b.jsonl, c.jsonl]", "teacher.dtype=float32", "seed=7"],
    )
    assert config.task.sequence_length == 64
    assert config.corpus.paths == ("b.jsonl", "c.jsonl")
    assert config.teacher != "none"
    assert config.teacher.dtype == "float32"
    assert (config.seed, config.backend, config.task.packing) == (7, "zarr", "windows")


def test_an_override_may_create_a_section(tmp_path: Path) -> None:
    config = load_config(TrainConfig, write(tmp_path, TRAIN), ["eval.cache=held", "optimizer.learning_rate=1e-3"])
    assert config.eval is not None
    assert config.eval.cache == "held"


@pytest.mark.parametrize(
    ("cls", "base", "override", "message"),
    [
        (DumpConfig, DUMP, "task.sequence_lenght=3", r"unknown key task.sequence_lenght; did you mean sequence_length"),
        (DumpConfig, DUMP, "teacher.dtpe=float32", r"unknown key teacher.dtpe; did you mean dtype"),
        (DumpConfig, DUMP, "outptu=3", r"unknown key outptu; did you mean output"),
        (DumpConfig, DUMP, "teacher.dtype=float8", r"teacher.dtype: got 'float8'.*'bfloat16'"),
        (DumpConfig, DUMP, "teacher=none", r"got teacher: none and no tokenizer, expected tokenizer"),
        (DumpConfig, DUMP, "task.sequence_length=1", r"task.sequence_length: got 1: .*greater than or equal to 2"),
        (DumpConfig, DUMP, "record.curve.temperatures=[0.0]", r"expected at least one temperature, each above 0"),
        (DumpConfig, DUMP, "record.logit_dtype=float64", r"record.logit_dtype: got 'float64'"),
        (DumpConfig, DUMP, "corpus.paths=", r"corpus.paths: got None: .*a list"),
        (DumpConfig, DUMP, "corpus.paths=''", r"corpus.paths: got '', expected a file, folder, glob or URL; the work"),
        (
            DumpConfig,
            DUMP | {"task": {"name": "sequence_classification", "overlong": "windows"}},
            "corpus.text_pair_field=b",
            r"got task.overlong windows for pairs \(corpus.text_pair_field\), expected head or tail",
        ),
        (DumpConfig, DUMP, "noequals", r"got -o noequals, expected -o key=value"),
        (TrainConfig, TRAIN, "epochs=2", r"expected exactly one of steps and epochs"),
        (TrainConfig, TRAIN, "student.config={model_type: llama}", r"exactly one of student.path and student.config"),
        (TrainConfig, TRAIN, "stream.lanes=63", r"got global_batch 64 and stream.lanes 63.*lanes to divide"),
        (TrainConfig, TRAIN, "terms=[]", r"got no loss term with a weight above 0"),
        (TrainConfig, TRAIN, "terms=[{name: divergence, temprature: 2}]", r"unknown key .*did you mean temperature"),
        (TrainConfig, TRAIN, "terms=[{name: divergence, temperature: 0}]", r"temperature: got 0: .*greater than 0"),
        (TrainConfig, TRAIN, "terms.0.kind=tvd", r"terms: got \{'0'.*a list"),
        (DumpConfig, DUMP, "teacher=nope", r"teacher: got 'nope', expected a mapping with keys such as .*path"),
        (TrainConfig, TRAIN, "student=null", r"student: got None, expected a mapping with keys such as .*config"),
        (TrainConfig, TRAIN, "terms=[{name: cross_entropy, kind: tvd}]", r"term, expected only temperature"),
    ],
)
def test_bad_settings_get_one_line(tmp_path: Path, cls: type, base: dict, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(cls, write(tmp_path, base), [override])
    text = str(caught.value)
    assert re.search(message, text), text
    assert "\n" not in text


def test_an_override_reaches_into_a_list(tmp_path: Path) -> None:
    data = TRAIN | {"terms": [{"name": "divergence"}, {"name": "cross_entropy"}]}
    config = load_config(TrainConfig, write(tmp_path, data), ["terms.0.kind=tvd", "terms.1.weight=0.25"])
    assert config.terms[0].kind.kind == "tvd"
    assert config.terms[1].weight == 0.25
    with pytest.raises(ConfigError, match=r"got -o terms.2.weight=1, expected an item of the list from 0 to 1"):
        load_config(TrainConfig, write(tmp_path, data), ["terms.2.weight=1"])


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="output is missing"):
        load_config(DumpConfig, write(tmp_path, {k: v for k, v in DUMP.items() if k != "output"}))


def test_files_that_are_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(DumpConfig, tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_config(DumpConfig, write(tmp_path, [1, 2]))
    with pytest.raises(ConfigError, match="holds nothing, expected a mapping"):
        load_config(DumpConfig, write(tmp_path, None))
    with pytest.raises(ConfigError, match=r"cannot read config .*: Not a directory"):
        load_config(DumpConfig, write(tmp_path, DUMP) / "inside")
    with pytest.raises(ConfigError, match=r"cannot read config .*: Is a directory"):
        load_config(DumpConfig, tmp_path)
    (tmp_path / "bad.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(DumpConfig, tmp_path / "bad.yaml")


@pytest.mark.parametrize("path", sorted(REPO.glob("configs/**/*.yaml")), ids=lambda p: p.name)
def test_every_config_of_the_project_is_valid_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    cls = TrainConfig if "\nstudent:" in text else DumpConfig
    load_config(cls, path)
    assert path.relative_to(REPO).as_posix() in text.splitlines()[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1}\na: 2\n", r"has the key a twice in one section, in lines 1 and 3"),
        ("optimizer:\n  eps: 1\n  learning_rate: 1e-3\n  eps: 2\n", r"the key eps twice .* in lines 2 and 4"),
        ("a: {b: 1, b: 2}", r"the key b twice .* in lines 1 and 1"),
        ("a: " + "[" * 900 + "]" * 900, r"is nested too deeply"),
        ("a: " + "{a: " * 3000 + "}" * 3000, r"is nested too deeply"),
        ("a: &x [*x]", r"has an alias inside its own anchor"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"{n}: &{n} [{','.join([f'*{m}'] * 9)}]\n" for m, n in zip("abcdefgh", "bcdefghi", strict=True)),
            r"more than 100,000 values",
        ),
        ("a: 2025-02-30", r"holds a value that is none"),
    ],
)
def test_yaml_that_would_mislead(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(TrainConfig, path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    value = text.partition(": ")[2] if text.startswith("a: ") and "\n" not in text else f"{{{text!r}: }}"
    if value.startswith(("[", "{b")):
        with pytest.raises(ConfigError, match=message):
            load_config(TrainConfig, write(tmp_path, TRAIN), [f"student.config={value}"])


def test_anchors_and_merged_keys_still_work(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    text = yaml.safe_dump(TRAIN) + "optimizer: &o {eps: 1.0e-6}\nschedule: {<<: {kind: constant}, warmup_steps: 3}\n"
    path.write_text(text, encoding="utf-8")
    config = load_config(TrainConfig, path)
    assert (config.schedule.kind, config.schedule.warmup_steps) == ("constant", 3)


@pytest.mark.parametrize(
    ("cls", "base", "override", "words", "not_words"),
    [
        (TrainConfig, TRAIN, "learning_rate=1e-3", "did you mean optimizer.learning_rate?", "log_every?"),
        (TrainConfig, TRAIN, "lanes=3", "did you mean stream.lanes?", ""),
        (TrainConfig, TRAIN, "temperature=2", "did you mean terms.N.temperature?", ""),
        (TrainConfig, TRAIN, "optimizer.lanes=2", "did you mean stream.lanes?", ""),
        (TrainConfig, TRAIN, "qqqq=2", "unknown key qqqq; Valid keys here", "did you mean"),
        (DumpConfig, DUMP, "sequence_lenght=3", "did you mean task.sequence_length?", ""),
        (
            DumpConfig,
            DUMP,
            "corpus.unit_rows=some",
            "corpus.unit_rows: got 'some': input should be a valid",
            "strained",
        ),
        (DumpConfig, DUMP, "corpus.unit_rows=some", "or input should be 'auto'", "literal"),
        (DumpConfig, DUMP, "corpus.unit_rows=-1", "corpus.unit_rows: got -1: input should be greater than 0", "-int"),
        (DumpConfig, DUMP, "record.exact_top_k=some", "record.exact_top_k: got 'some'", "constrained"),
        (DumpConfig, DUMP, "task.name=summary", "task: got name summary; expected one of causal_lm", "tagged-union"),
        (DumpConfig, DUMP, "record={kind: features, at: [1]}", "record.at: got", "literal["),
        (TrainConfig, TRAIN, "deepspeed=[1]", "deepspeed: got [1]: input should be a valid string, or input", "dict["),
        (TrainConfig, TRAIN, "optimizer.betas=[1]", "optimizer.betas.1 is missing", "tuple"),
        (DumpConfig, DUMP, "task.date=soon", "task.date: got soon, expected a day such as 2025-01-31", "value error"),
        (DumpConfig, DUMP, "task.date=20250131", "task.date: got 20250131, expected a day", ""),
        (DumpConfig, DUMP, "task={turns: last, loss_on: all}", "got task.turns last with loss_on: all", ""),
        (DumpConfig, DUMP, "output=$NOT_SET/x", "output: got path $NOT_SET/x, expected NOT_SET to be set", ""),
        (DumpConfig, DUMP, "output=${NOT_SET}/x", "expected NOT_SET to be set", ""),
        (DumpConfig, DUMP, "output=~nobody-here/x", "expected a home folder of that user", ""),
    ],
)
def test_words_that_help(tmp_path: Path, cls: type, base: dict, override: str, words: str, not_words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(cls, write(tmp_path, base), [override])
    assert words in str(caught.value)
    assert not not_words or not_words not in str(caught.value)


def test_home_and_variables_are_expanded_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    paths = {"output": "~/a", "tokenizer": "$DATA/b", "corpus.paths": "[~/c, '${DATA}/d']", "teacher.path": "$HOME/e"}
    dump = load_config(DumpConfig, write(tmp_path, DUMP), [f"{key}={value}" for key, value in paths.items()])
    assert (dump.output, dump.tokenizer, dump.corpus.paths) == ("/home/me/a", "/data/b", ("/home/me/c", "/data/d"))
    assert dump.teacher != "none"
    assert dump.teacher.path == "/home/me/e"
    keys = ("cache", "output", "student.path", "deepspeed", "eval.cache")
    train = load_config(TrainConfig, write(tmp_path, TRAIN), [f"{key}=~/x" for key in keys])
    assert train.eval is not None
    found = (train.cache, train.output, train.student.path, train.deepspeed, train.eval.cache)
    assert found == ("/home/me/x",) * 5
    (tmp_path / "$odd").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_config(DumpConfig, write(tmp_path, DUMP), ["output=$odd"]).output == "$odd"


ROUND_TRIPS: list[tuple[type[Config], dict[str, Any]]] = [
    *((DumpConfig, {"corpus": {"paths": "x", "format": format}}) for format in ("jsonl", "csv", "text")),
    (DumpConfig, {"corpus": {"paths": "x", "format": "conll"}, "task": {"name": "token_classification"}}),
    *((DumpConfig, {"task": {"name": name}}) for name in ("sequence_classification", "token_classification")),
    (DumpConfig, {"record": {"kind": "factored", "rank": 8}}),
    (TrainConfig, {}),
    (TrainConfig, {"terms": [{"name": "cross_entropy"}, {"name": "entropy"}, {"name": "bottleneck"}]}),
]


@pytest.mark.parametrize(("cls", "settings"), ROUND_TRIPS)
def test_a_config_that_writes_out_its_defaults_is_the_same(cls: type[Config], settings: dict[str, Any]) -> None:
    config = cls.model_validate({**(TRAIN if cls is TrainConfig else DUMP), **settings})
    assert cls.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("task", "corpus", "words"),
    [
        ("causal_lm", {"loss_mask_field": "m"}, "got corpus.loss_mask_field without corpus.tokens_field"),
        (
            "causal_lm",
            {"tokens_field": "t", "messages_field": "m"},
            "got corpus.tokens_field and corpus.mess",
        ),
        (
            "causal_lm",
            {"tokens_field": "t", "text_field": "x"},
            "got corpus.text_field for causal_lm, expected no",
        ),
        ("causal_lm", {"text_pair_field": "x"}, "got corpus.text_pair_field for causal_lm, expected no such column"),
        ("causal_lm", {"format": "conll"}, "got corpus.format conll for causal_lm"),
        ("causal_lm", {"label_field": "x"}, "got corpus.label_field for causal_lm, expected no labels"),
        ("sequence_classification", {"messages_field": "m"}, "got corpus.messages_field for sequence_classification"),
        ("sequence_classification", {"tokens_field": "m"}, "got corpus.tokens_field for sequence_classification"),
        (
            "token_classification",
            {"text_field": "m"},
            "got corpus.text_field for token_classification",
        ),
    ],
)
def test_a_column_that_no_task_reads_is_refused(tmp_path: Path, task: str, corpus: dict, words: str) -> None:
    """It would be ignored: a typing error in the choice of the task, or a teacher trained on other rows than meant."""
    settings = {**DUMP, "task": {"name": task}, "corpus": {"paths": "x", "format": "jsonl", **corpus}}
    with pytest.raises(ConfigError) as caught:
        load_config(DumpConfig, write(tmp_path, settings), [])
    assert words in str(caught.value)
