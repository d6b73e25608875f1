"""The README and the pages it leads to quote what the tests run, and name what is there."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from helpers import kdcache, make_model, make_tokenizer, sentences, write_jsonl

from kdcache.cli import cli
from kdcache.config.base import Config
from kdcache.config.file import load_config
from kdcache.config.yaml_text import read_yaml
from kdcache.dump.settings import DumpConfig
from kdcache.train.settings import TrainConfig

REPO = Path(__file__).parent.parent
PAGES = {
    name: (REPO / name).read_text(encoding="utf-8")
    for name in (
        "README.md",
        "configs/README.md",
        "configs/SETTINGS.md",
        "configs/TASKS.md",
        "kdcache/imports/IMPORTS.md",
        "kdcache/store/FORMAT.md",
        "kdcache/store/READING.md",
        "kdcache/targets/RECORDS.md",
        "launch/CLUSTER.md",
        "tests/bench/RESULTS.md",
    )
}
SETTINGS: dict[str, type[Config]] = {"dump-logits": DumpConfig, "train": TrainConfig}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


@pytest.mark.parametrize("name", ["plain_zarr.py", "plain_pandas.py", "plain_duckdb.py"])
def test_snippets_are_the_tested_ones(name: str) -> None:
    snippet = (REPO / "tests" / "store" / name).read_text().strip()
    assert f"```python\n{snippet}\n```" in PAGES["kdcache/store/READING.md"]


@pytest.mark.parametrize("page", PAGES)
def test_settings_on_a_page_are_loaded(page: str, tmp_path: Path) -> None:
    """A block of YAML is a settings file; its first line is the command that runs it."""
    for block in blocks(page, "yaml"):
        command = shlex.split(block.splitlines()[0].lstrip("# "))
        assert command[0] == "kdcache", block
        (tmp_path / command[2]).write_text(block, encoding="utf-8")
        load_config(SETTINGS[command[1]], tmp_path / command[2])


def test_records_on_their_page_are_settings() -> None:
    table = PAGES["kdcache/targets/RECORDS.md"].partition("## What each one measured")[0]
    records = re.findall(r"`(\[?\{kind: .*?)`", table)
    assert len(records) >= 7
    rest = {"output": "c", "corpus": {"paths": "a.jsonl", "format": "jsonl"}, "teacher": {"path": "t"}}
    for record in records:
        DumpConfig.model_validate({**rest, "record": read_yaml(record)})


def test_the_readme_has_a_dump_and_a_training_run_in_about_twenty_lines() -> None:
    of_commands = {block.split()[2]: block for block in blocks("README.md", "yaml")}
    assert of_commands.keys() == SETTINGS.keys()
    assert len("".join(of_commands.values()).splitlines()) <= 20


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_on_a_page_exist(page: str) -> None:
    for name, arguments in re.findall(r"\bkdcache ([a-z-]+)((?: [^\s`|#]+)*)", PAGES[page]):
        if name not in cli.commands:
            assert not arguments.startswith(" -"), f"kdcache {name}{arguments}"
            continue
        known = {"--help", *(option for parameter in cli.commands[name].params for option in parameter.opts)}
        used = {word.rstrip(",.];:") for word in re.findall(r"(?<!\S)\[?(-{1,2}[a-z][a-z-]*)", arguments)}
        assert used <= known, f"kdcache {name}{arguments}"


def test_every_command_and_config_is_named() -> None:
    for command in cli.commands:
        assert f"kdcache {command}" in PAGES["README.md"]
    for path in (REPO / "configs").glob("**/*.yaml"):
        assert path.name in PAGES["configs/README.md"], path
    for path in (REPO / "launch").glob("*.slurm"):
        assert path.name in PAGES["launch/CLUSTER.md"], path


@pytest.mark.parametrize("page", PAGES)
def test_paths_on_a_page_exist(page: str) -> None:
    words = {word.strip("`(),:;.|[]") for word in re.split(r"[\s`()]+", PAGES[page])}
    places = ("launch/", "configs/", "kdcache/", "tests/")
    named = {word for word in words if word.startswith(places) and not {*word} & {*"*…<"}}
    assert [name for name in sorted(named) if not (REPO / name.partition("::")[0]).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_on_a_page_lead_somewhere(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", PAGES[page]) if "://" not in link]
    assert [link for link in links if not (REPO / page).parent.joinpath(link).exists()] == []
    if page != "README.md":
        assert f"({page})" in PAGES["README.md"], "the README leads to every page"


def test_a_table_that_stands_twice_says_the_same() -> None:
    results = PAGES["tests/bench/RESULTS.md"]
    quickstart = next(fenced for fenced in PAGES["README.md"].split("```")[1::2] if "perplexity" in fenced)
    assert quickstart in results
    measured = PAGES["kdcache/targets/RECORDS.md"].partition("## What each one measured")[2].partition("\n**")[0]
    rows = [line for line in measured.splitlines() if line.startswith("| ")]
    assert len(rows) >= 8
    for row in rows:
        assert row.replace("(RS-KD)", "(RS-KD, arXiv 2503.16870)") in results, row


def test_the_readme_is_short() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 230


@pytest.mark.launch
def test_the_readmes_own_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its files and its commands as they stand there, with a small teacher and student in place of the real ones."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("teacher", 0), ("student", 1)):
        make_tokenizer(tmp_path / name)
        make_model(tmp_path / name, vocab_size=330, seed=seed)
    write_jsonl(tmp_path / "texts.jsonl", sentences(120))
    write_jsonl(tmp_path / "heldout.jsonl", sentences(20, 1))
    for block in blocks("README.md", "yaml"):
        (tmp_path / block.split()[3]).write_text(block, encoding="utf-8")
    small = {
        "dump-logits": ["teacher.path=teacher", "teacher.dtype=float32", "task.sequence_length=64"],
        "train": ["student.path=student", "deepspeed={}", "global_batch=8", "micro_batch=4", "stream.lanes=8"],
    }
    commands = [shlex.split(line, comments=True) for line in blocks("README.md", "bash")[0].splitlines()]
    assert ["kdcache", "train", "train.yaml", "--nproc", "8"] in commands
    for _, command, *arguments in commands:
        arguments += [word for setting in small.get(command, []) for word in ("-o", setting)]
        if command == "train":
            ran = kdcache(command, *[word if word != "8" else "1" for word in arguments], cwd=tmp_path)
            assert ran.returncode == 0, ran.stderr
        else:
            cli.main([command, *arguments], standalone_mode=False)
    assert "KL to teacher" in capsys.readouterr().out
    loop = blocks("README.md", "python")[0].replace("Qwen/Qwen2.5-0.5B", "student").replace('"cuda"', '"cpu"')
    learned: dict[str, Any] = {}
    exec(compile(loop, "README.md", "exec"), learned)
    assert 0 < learned["loss"] < 10
