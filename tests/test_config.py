import re
from pathlib import Path

import pytest
import yaml

from kdcache.config import DumpConfig, TrainConfig
from kdcache.config_file import load_config
from kdcache.errors import ConfigError

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
        (DumpConfig, DUMP, "noequals", r"got -o noequals, expected -o key=value"),
        (TrainConfig, TRAIN, "epochs=2", r"expected exactly one of steps and epochs"),
        (TrainConfig, TRAIN, "student.config={model_type: llama}", r"exactly one of student.path and student.config"),
        (TrainConfig, TRAIN, "global_batch=65", r"got global_batch 65 and stream.lanes 64.*lanes to divide"),
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
    assert config.terms[0].kind == "tvd"
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
