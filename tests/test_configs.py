"""Every settings file that is shipped is loaded, resolved and started, as far as a machine without its data can.

Corpora, teachers, students and caches are replaced by tiny ones through overrides, as a user would with -o; all other
settings are the file's own. A dump goes as far as `--check`, a training run as far as its student.
"""

from pathlib import Path

import pytest
from classes import TAGS, make_classifier, moods, tagged, write_conll, write_rows
from click.testing import CliRunner
from helpers import make_model, make_tokenizer, sentences

from kdcache.cli import cli
from kdcache.config.file import load_config
from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.errors import StudentError
from kdcache.launcher import World
from kdcache.store.cache import open_cache
from kdcache.students.making import make_student
from kdcache.train.launch import finished_early
from kdcache.train.plan import plan
from kdcache.train.settings import TrainConfig

REPO = Path(__file__).parent.parent
FILES = sorted(REPO.glob("configs/**/*.yaml"))
TRAINS = [path for path in FILES if "\nstudent:" in path.read_text(encoding="utf-8")]
DUMPS = [path for path in FILES if path not in TRAINS]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpora of every format and a teacher for every task; enough examples for a step of every run."""
    import pyarrow.json
    import pyarrow.parquet

    root = tmp_path_factory.mktemp("shipped")
    rows = [row | {"messages": chat(row["text"])} for row in moods(160)]
    write_rows(root / "corpus.jsonl", rows)
    write_rows(root / "texts.jsonl", [{"text": text} for text in sentences(400)])
    pyarrow.parquet.write_table(pyarrow.json.read_json(root / "texts.jsonl"), root / "corpus.parquet")
    write_conll(root / "corpus.conll", tagged(160))
    make_tokenizer(root / "causal_lm")
    make_model(root / "causal_lm", positions=4096)
    make_classifier(root / "sequence_classification", "sequence_classification", ("bright", "dark"), positions=128)
    make_classifier(root / "token_classification", "token_classification", TAGS, positions=128)
    return root


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": text}]


def dump_overrides(path: Path, home: Path, output: Path) -> list[str]:
    config = load_config(DumpConfig, path)
    overrides = [f"output={output}", f"corpus.paths={home}/corpus.{config.corpus.format}", "compute.device=cpu"]
    key = "tokenizer" if config.teacher == "none" else "teacher.path"
    return [*overrides, f"{key}={home / config.task.name}"]


@pytest.fixture(scope="module")
def caches(home: Path) -> dict[str, Path]:
    """A tiny cache of each task's, by the name of the dump's settings file."""
    found = {}
    for name in ("quickstart", "tasks/spam", "tasks/ner-zh"):
        file = REPO / "configs" / name / "dump.yaml"
        found[name] = home / name / "cache"
        overrides = [*dump_overrides(file, home, found[name]), "corpus.unit_rows=256"]
        if name == "quickstart":
            overrides += [f"corpus.paths={home}/texts.jsonl", "task.sequence_length=24"]
        run_dump(load_config(DumpConfig, file, overrides), World())
    return found


def train_overrides(path: Path, home: Path, caches: dict[str, Path], output: Path) -> list[str]:
    config, folder = load_config(TrainConfig, path), path.relative_to(REPO / "configs").parent.as_posix()
    cache = caches.get(folder, caches["tasks/spam" if folder.startswith("tasks/sentiment") else "quickstart"])
    overrides = [f"cache={cache}", f"output={output}", "device=cpu"]
    if config.eval is not None:
        overrides.append(f"eval.cache={cache}")
    if config.student.path is not None:
        overrides.append(f"student.path={home / open_cache(cache).manifest.header.task['name']}")
    return overrides


@pytest.mark.parametrize("path", DUMPS, ids=lambda path: path.relative_to(REPO / "configs").as_posix())
def test_a_dump_is_checked(path: Path, home: Path, tmp_path: Path) -> None:
    overrides = dump_overrides(path, home, tmp_path / "cache")
    options = [argument for override in overrides for argument in ("-o", override)]
    result = CliRunner().invoke(cli, ["dump-logits", str(path), "--check", *options])
    assert result.exit_code == 0, result.exception or result.output
    assert "nothing was written" in result.output
    assert "bad rows   none" in result.output


@pytest.mark.parametrize("path", TRAINS, ids=lambda path: path.relative_to(REPO / "configs").as_posix())
def test_a_training_run_starts(
    path: Path, home: Path, caches: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    run = plan(load_config(TrainConfig, path, train_overrides(path, home, caches, tmp_path / "run")))
    assert not finished_early(run, 1)
    cache = open_cache(run.caches[0][0])
    student = make_student(run.student, cache, run.seed, batch_examples=run.most_in_a_batch, device="cpu")
    assert sum(parameter.numel() for parameter in student.parameters()) > 0


def test_a_student_of_the_hub_is_one_line_without_a_network(
    home: Path, caches: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    path = REPO / "configs" / "cluster" / "train.yaml"
    overrides = [o for o in train_overrides(path, home, caches, tmp_path / "run") if "student" not in o]
    with pytest.raises(StudentError) as caught:
        finished_early(plan(load_config(TrainConfig, path, overrides)), 1)
    text = str(caught.value)
    assert "\n" not in text
    assert "got student.path Qwen/Qwen2.5-1.5B" in text
    assert "HF_HUB_OFFLINE is set" in text
    assert "hf download Qwen/Qwen2.5-1.5B" in text
    assert caught.value.exit_status == 2
