"""The command line: exit statuses and one-line errors. Run in this process; one test starts a real one."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import Run, files_of, kdcache, make_model, make_tokenizer, sentences, write_jsonl

import kdcache as package
from kdcache.report.evaluate import cautions


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cache made through the command line, in its own folder with teacher and corpus."""
    folder = tmp_path_factory.mktemp("dumped")
    make_tokenizer(folder / "teacher")
    make_model(folder / "teacher", vocab_size=330)
    write_jsonl(folder / "corpus.jsonl", sentences(40))
    config = {
        "output": str(folder / "cache"),
        "corpus": {"paths": str(folder / "corpus.jsonl"), "format": "jsonl", "unit_rows": 10},
        "teacher": {"path": str(folder / "teacher"), "dtype": "float32"},
        "task": {"sequence_length": 64},
        "record": {"exact_top_k": 8},
    }
    (folder / "dump.yaml").write_text(yaml.safe_dump(config))
    ran = kdcache("dump-logits", folder / "dump.yaml")
    assert ran.returncode == 0, ran.stderr
    assert "4 shards" in ran.stdout
    assert "bytes per position" in ran.stdout
    return folder


def test_help_teaches(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0
    for command in (
        "dump-logits",
        "train",
        "eval",
        "inspect",
        "verify",
        "convert",
        "merge",
        "filter",
        "cut",
        "push",
        "fetch",
    ):
        assert command in out
    assert "torchrun" in run("dump-logits", "--help")[1]


def test_an_interrupted_command_says_so_and_goes_on(
    run: Run, dumped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after two of four shards."""
    from kdcache.dump import make

    whole, made = make.unit_arrays, []

    def unit_arrays(*given: object, **named: object) -> object:
        made.append(whole(*given, **named))
        if len(made) == 3:
            raise KeyboardInterrupt
        return made[-1]

    monkeypatch.setattr(make, "unit_arrays", unit_arrays)
    command = ("dump-logits", dumped / "dump.yaml", "-o", f"output={tmp_path / 'cache'}")
    status, _, err = run(*command)
    assert (status, err.splitlines()[-1]) == (130, "kdcache: interrupted; run the same command again to go on")
    assert run(*command)[0] == 0
    assert len(made) < 3 + 4
    assert files_of(tmp_path / "cache") == files_of(dumped / "cache")


def test_inspect(run: Run, dumped: Path) -> None:
    status, out, _ = run("inspect", dumped / "cache")
    assert status == 0
    assert "LlamaForCausalLM" in out
    assert "exact_top_k 8" in out
    import json

    facts = json.loads(run("inspect", dumped / "cache", "--json")[1])
    cache = package.open_cache(dumped / "cache")
    assert facts["totals"]["positions"] == cache.num_positions
    assert facts["digest"] == cache.digest


def test_inspect_at_temperatures(run: Run, dumped: Path) -> None:
    status, out, _ = run("inspect", dumped / "cache", "--temperature", 1, "--temperature", 4)
    assert status == 0
    assert "outside the certain" in out
    figures = json.loads(run("inspect", dumped / "cache", "--temperature", 1, "--temperature", 4, "--json")[1])
    first, second = figures["temperatures"]
    assert (first["temperature"], second["temperature"]) == (1, 4)
    assert 0 < first["tail_mass"] < second["tail_mass"] < 1
    assert run("inspect", dumped / "cache", "--temperature", 0)[0] == 2


def test_inspect_starts_quickly(dumped: Path) -> None:
    """No torch, transformers, deepspeed or zarr is imported for it; pyarrow is, which reads the table of shards."""
    code = (
        "import sys; from kdcache.cli import main; sys.argv = ['kdcache', 'inspect', sys.argv[1]]; main(); "
        "print({'torch', 'transformers', 'deepspeed', 'zarr'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code, dumped / "cache"], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "set()"


def test_verify_names_the_damaged_shard(run: Run, dumped: Path, tmp_path: Path) -> None:
    status, out, _ = run("verify", dumped / "cache")
    assert (status, "every digest and count is right" in out) == (0, True)
    copy = tmp_path / "copy"
    shutil.copytree(dumped / "cache", copy)
    shard = copy / "shards/000" / "000002.zarr.zip"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    status, out, err = run("verify", copy)
    assert status == 1
    assert "shards/000/000002.zarr.zip" in out
    assert "000001" not in out
    assert "1 file damaged" in err


def test_a_verify_that_was_stopped_goes_on(
    run: Run, dumped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after two of four shards: what was not read is, and what is not as it was; in the end all is forgotten."""
    from kdcache.store import verify

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    copy = shutil.copytree(dumped / "cache", tmp_path / "copy")
    read: list[int] = []
    fetch, stops = verify.fetch_shard, [False]

    def fetch_shard(root: Any, header: Any, commit: Any) -> bytes:
        read.append(commit.unit)
        if stops[0] and len(read) == 3:
            raise KeyboardInterrupt
        return fetch(root, header, commit)

    def stopped() -> None:
        read.clear()
        stops[0] = True
        status, _, err = run("verify", copy, "--jobs", 1)
        assert (status, err.splitlines()[-1]) == (130, "kdcache: interrupted; run the same command again to go on")
        stops[0] = False
        read.clear()

    monkeypatch.setattr(verify, "fetch_shard", fetch_shard)
    stopped()
    status, out, err = run("verify", copy, "--jobs", 3)
    assert (status, sorted(read)) == (0, [2, 3])
    assert "2 shards found sound by a verify that was stopped" in err
    assert "every digest and count is right" in out
    read.clear()
    assert run("verify", copy)[0] == 0
    assert sorted(read) == [0, 1, 2, 3]

    stopped()
    shard = copy / "shards/000" / "000001.zarr.zip"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    status, out, _ = run("verify", copy)
    assert (status, sorted(read), "000001.zarr.zip" in out) == (1, [1, 2, 3], True)
    assert not [*(tmp_path / "home/kdcache/verified").iterdir()]

    read.clear()
    assert run("verify", copy, "--anew")[0] == 1
    assert sorted(read) == [0, 1, 2, 3]


def test_what_a_verify_found_is_known_from_wherever_the_cache_is_looked_at(
    dumped: Path, states: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdcache.report.verified import Verified
    from kdcache.store.cache import read_manifest
    from kdcache.store.files import Root

    def notes() -> set[Path]:
        return {*states.glob("kdcache/verified/*")}

    of_others, manifest = notes(), read_manifest(Root(dumped / "cache"))
    monkeypatch.chdir(dumped)
    with Verified(Root("cache"), manifest) as known:
        assert 0 not in known
        known.add(0)
    assert len(notes() - of_others) == 1
    monkeypatch.chdir("/")
    with Verified(Root(dumped / "cache"), manifest) as known:
        assert 0 in known
        known.done()
    assert notes() == of_others


@pytest.mark.parametrize("notes", ["cannot be written", "are torn"])
def test_a_verify_is_whole_whatever_the_notes_of_an_earlier_one(
    run: Run, dumped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: str
) -> None:
    from kdcache.report.verified import Verified
    from kdcache.store.cache import read_manifest
    from kdcache.store.files import Root

    home = tmp_path / "home"
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    if notes == "cannot be written":
        home.write_text("")
    else:
        root = Root(dumped / "cache")
        with Verified(root, read_manifest(root)) as known:
            assert 0 not in known
            known.add(0)
        (file,) = (home / "kdcache/verified").iterdir()
        file.write_text(file.read_text() + "[1, ")
        assert len(Verified(root, read_manifest(root))) == 1
    status, out, _ = run("verify", dumped / "cache")
    assert (status, "every digest and count is right" in out) == (0, True)


def test_convert_there_and_back(run: Run, dumped: Path, tmp_path: Path) -> None:
    assert run("convert", dumped / "cache", tmp_path / "arrow", "--to", "arrow")[0] == 0
    assert run("verify", tmp_path / "arrow")[0] == 0
    assert run("convert", tmp_path / "arrow", tmp_path / "zarr", "--to", "zarr")[0] == 0
    for shard in (dumped / "cache" / "shards/000").glob("*.zip"):
        assert (tmp_path / "zarr" / "shards/000" / shard.name).read_bytes() == shard.read_bytes()


def test_eval_prints_one_table(run: Run, dumped: Path, tmp_path: Path) -> None:
    """The teacher as its own student, without the columns above the tokenizer's: no KL, the loss that the cache knows.

    With those columns it gives them some probability, which the records do not.
    """
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(dumped / "teacher")
    whole.resize_token_embeddings(320)
    whole.save_pretrained(tmp_path / "teacher")
    make_model(tmp_path / "other", vocab_size=320, seed=5)
    status, out, err = run("eval", tmp_path / "teacher", tmp_path / "other", "--cache", dumped / "cache", "--untrained")
    assert status == 0, err
    header, teacher, untrained, same, other = out.splitlines()
    assert "KL to teacher" in header
    assert teacher.split()[-1] == "100.0%"
    assert untrained.startswith("untrained teacher")
    assert abs(float(same.split()[-2])) < 0.01
    assert abs(float(same.split()[-4]) - float(teacher.split()[-4])) < 0.01
    assert float(other.split()[-2]) > 1.0


def test_eval_refuses_another_tokenizer(run: Run, dumped: Path, tmp_path: Path) -> None:
    shutil.copytree(dumped / "teacher", tmp_path / "student")
    tokenizer = tmp_path / "student" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("<|im_end|>", "<|im_stop|>"))
    status, out, err = run("eval", tmp_path / "student", "--cache", dumped / "cache")
    assert (status, out) == (1, "")
    assert "is not the cache's" in err


def test_errors_are_one_line_with_their_status(run: Run, dumped: Path, tmp_path: Path) -> None:
    def refused(expected_status: int, words: str, *arguments: object) -> None:
        status, _, err = run(*arguments)
        assert status == expected_status, err
        line = err.strip().splitlines()[-1]
        assert line.startswith("kdcache: "), err
        assert words in line, err
        assert "Traceback" not in err
        assert "Usage" not in err

    dump = dumped / "dump.yaml"
    refused(2, "does not exist", "dump-logits", tmp_path / "no.yaml")
    refused(2, "did you mean output", "dump-logits", dump, "-o", "outpt=x")
    refused(2, "unknown key", "train", dump)
    refused(2, "expected both or neither", "dump-logits", dump, "--rank", 0)
    refused(1, "was begun with seed 0, got 3", "dump-logits", dump, "-o", "seed=3")
    refused(1, "is not a cache", "inspect", tmp_path)
    refused(1, "is not a cache", "verify", tmp_path)
    refused(2, "which is SOURCE", "convert", dumped / "cache", dumped / "cache", "--to", "arrow")
    refused(2, "which is CACHE 1", "merge", *[dumped / "cache"] * 2, "--out", dumped / "cache")
    refused(2, "is the same cache as", "merge", dumped / "cache", dumped / "cache", "--out", tmp_path / "both")
    refused(2, "expected two or more", "merge", dumped / "cache", "--out", tmp_path / "both")
    for status, words, where in (
        (2, "did you mean length?", "lenght < 3"),
        (2, "is no expression", "length <"),
        (2, "the cache was not merged of several", "source == 0"),
        (2, "expected a file", f"number in ids('{tmp_path}/no')"),
        (1, "is true of no example with a supervised position", "length > 10000"),
    ):
        refused(status, words, "filter", dumped / "cache", "--out", tmp_path / "some", "--where", where)
    refused(2, "which is CACHE", "filter", dumped / "cache", "--out", dumped / "cache", "--where", "length > 3")
    refused(2, "which is CACHE", "push", dumped / "cache", dumped / "cache")
    refused(2, "which is URL", "fetch", dumped / "cache", "--out", dumped / "cache")
    refused(1, "expected a folder with config.json", "eval", tmp_path, "--cache", dumped / "cache")
    refused(2, "No such command 'destil'; see kdcache --help", "destil")
    refused(2, "Missing argument 'CONFIG'; see kdcache train --help", "train")
    refused(2, "No such option '--wobbly'; see kdcache verify --help", "verify", "x", "--wobbly")
    refused(2, "expected numbers", "cut", dumped / "teacher", "--layers", "a", "--out", tmp_path / "o")


def test_a_path_that_is_not_there_is_always_2(run: Run, dumped: Path, tmp_path: Path) -> None:
    no, dump, cache = tmp_path / "no", dumped / "dump.yaml", dumped / "cache"
    train = tmp_path / "train.yaml"
    settings = {"cache": str(cache), "output": str(tmp_path / "out"), "student": {"path": str(dumped / "teacher")}}
    sizes = {"steps": 1, "global_batch": 4, "micro_batch": 2, "stream": {"lanes": 2}}
    train.write_text(yaml.safe_dump(settings | sizes))
    fresh = ("-o", f"output={tmp_path}/x")
    commands: list[tuple[object, ...]] = [
        ("dump-logits", no),
        ("dump-logits", dump, *fresh, "-o", f"corpus.paths={no}"),
        ("dump-logits", dump, *fresh, "-o", f"corpus.paths={no}/*.jsonl"),
        ("dump-logits", dump, *fresh, "-o", f"teacher.path={no}"),
        ("dump-logits", dump, *fresh, "-o", f"tokenizer={no}"),
        ("dump-logits", dump, *fresh, "-o", "teacher=none", "-o", f"tokenizer={no}"),
        ("train", no),
        ("train", train, "-o", f"cache={no}"),
        ("train", train, "-o", f"eval.cache={no}"),
        ("train", train, "-o", f"student.path={no}"),
        ("train", train, "-o", f"deepspeed={no}"),
        ("eval", no, "--cache", cache),
        ("eval", dumped / "teacher", "--cache", no),
        ("eval", dumped / "teacher", "--cache", cache, "--teacher", no),
        ("inspect", no),
        ("inspect", f"file://{no}"),
        ("inspect", "memory://no"),
        ("verify", no),
        ("convert", no, tmp_path / "y", "--to", "arrow"),
        ("merge", cache, no, "--out", tmp_path / "y"),
        ("filter", no, "--out", tmp_path / "y", "--where", "length > 3"),
        ("push", no, tmp_path / "y"),
        ("fetch", no, "--out", tmp_path / "y"),
        ("cut", no, "--layers", "0", "--out", tmp_path / "z"),
    ]
    for command in commands:
        status, _, err = run(*command)
        assert status == 2, (command, err)
        assert err.strip().splitlines()[-1].startswith("kdcache: "), (command, err)
        assert "Traceback" not in err


def test_home_and_variables_in_paths_of_the_command_line(
    run: Run, dumped: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(dumped))
    monkeypatch.setenv("DUMPED", str(dumped))
    monkeypatch.chdir(tmp_path)
    for path in ("~/cache", "$DUMPED/cache", "${DUMPED}/cache"):
        assert run("inspect", path)[0] == 0
    assert "~" not in run("eval", "~/none", "--cache=~/cache")[2]
    assert run("convert", "~/cache", "~/expanded", "--to", "arrow")[0] == 0
    assert (dumped / "expanded" / "cache.json").exists()
    status, _, err = run("inspect", "$NOT_SET/cache")
    assert (status, "expected NOT_SET to be set in the environment" in err) == (2, True)
    assert package.open_cache("~/cache").digest
    assert not [*tmp_path.iterdir()]


def test_inspect_of_a_cache_without_a_named_teacher(run: Run, tmp_path: Path) -> None:
    from train.tiny import write_cache

    write_cache(tmp_path / "own", examples=4)
    write_cache(tmp_path / "labels", examples=4, record=None)
    assert "teacher    not named" in run("inspect", tmp_path / "own")[1]
    assert "teacher    none: labels only" in run("inspect", tmp_path / "labels")[1]


def test_eval_on_what_the_student_has_seen_is_named(dumped: Path, tmp_path: Path) -> None:
    cache = package.open_cache(dumped / "cache")
    header = cache.manifest.header
    assert cache.manifest.corpus is not None
    assert header.teacher is not None
    card = "Trained by kdcache\n| cache | `{}` |\n| corpus | `{}` |\n| teacher weights | `{}` |\n"
    right = (cache.digest, cache.manifest.corpus.sha256, header.teacher.weights_sha256)
    said = {
        right: "was trained on the cache",
        ("other", *right[1:]): "was trained on the corpus of",
        ("other", "other", "other"): "had another teacher than",
        ("other", "other", right[2]): "",
    }
    for facts, words in said.items():
        (tmp_path / "README.md").write_text(card.format(*facts))
        found = [*cautions(tmp_path, cache)]
        assert len(found) == bool(words)
        assert words in "".join(found)
    (tmp_path / "README.md").unlink()
    assert not [*cautions(tmp_path, cache)]


def test_a_real_process_prints_the_line_and_exits(dumped: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    ran = kdcache("inspect", tmp_path / "nothing")
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("kdcache: ")
    assert time.monotonic() - started < 60
