"""`kdcache train` as a user runs it: launchers, kills, signals, and one line for every mistake."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from helpers import kdcache, make_tokenizer
from train.tiny import dropping_student, student_config, train_config, train_settings, write_cache

import kdcache.train as kdcache_train
from kdcache.config.file import load_config
from kdcache.errors import KdcacheError
from kdcache.store.cache import open_cache
from kdcache.store.manifest import CorpusPin
from kdcache.stream.mixture import Mixture
from kdcache.stream.settings import StreamConfig
from kdcache.targets.curve_spec import CurveSpec
from kdcache.targets.sampled import Sampled
from kdcache.targets.top_k import TopK
from kdcache.train.cautions import warn
from kdcache.train.distributed import free_port
from kdcache.train.launch import run_train
from kdcache.train.plan import plan
from kdcache.train.run import open_caches
from kdcache.train.settings import TrainConfig

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def write_config(path: Path, **settings: Any) -> Path:
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def start(*arguments: object, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kdcache", "train", *map(str, arguments)]
    environment = ONE_THREAD | variables
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(output: Path, step: int) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if (output / "log.jsonl").exists() and f'"step": {step}' in (output / "log.jsonl").read_text():
            return
        time.sleep(0.005)
    raise TimeoutError(f"step {step} was not reached")


def ranks_of(process: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return {
        int(child.environ()["RANK"]): child
        for child in children
        if "RANK" in child.environ() and child.cmdline()[2:4] == ["-m", "kdcache"]
    }


@pytest.mark.launch
def test_a_run_survives_sigkill_sigterm_and_another_launcher(root: Path, tmp_path: Path) -> None:
    """Two ranks: one is killed, the next run is told to stop, the last is started by deepspeed."""
    output = tmp_path / "out"
    settings = train_settings(
        root / "cache", output, stage=2, steps=60, student=dropping_student(), checkpoint={"every": 5}
    )
    config = write_config(tmp_path / "train.yaml", **settings)

    process = start(config, "--nproc", 2)
    wait_for_step(output, 12)
    ranks_of(process)[1].kill()
    _, words = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in words
    assert "run the same command again to go on from the last checkpoint" in words
    step = int((output / "checkpoints" / "latest").read_text().removeprefix("step-"))
    assert 10 <= step < 30

    process = start(config, "--nproc", 2)
    wait_for_step(output, 30)
    left = [*ranks_of(process).values()]
    process.send_signal(signal.SIGTERM)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 75, words
    assert f"going on from step {step} of 60" in words
    (last,) = (line for line in words.splitlines() if line.startswith("kdcache: "))
    assert last.startswith("kdcache: stopped by SIGTERM after step ")
    assert last.endswith(" of 60, whose checkpoint is written; run the same command again to go on")
    saved = (output / "checkpoints" / "latest").read_text()
    assert saved == f"step-{int(last.split()[6]):08d}\n"
    assert "Traceback" not in words
    assert len(left) == 2
    assert not psutil.wait_procs(left, timeout=10)[1]

    launcher = str(Path(sys.executable).with_name("deepspeed"))
    command = [launcher, "--num_gpus", "2", "--master_port", str(free_port()), "--no_local_rank", "--module", "kdcache"]
    done = subprocess.run([*command, "train", str(config)], env=ONE_THREAD, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    first, *lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert (first["step"], first["group"]) == (0, "cache")
    assert first["cache_sha256"] == open_cache(root / "cache").digest
    assert [line["step"] for line in lines] == list(range(1, 61))
    student = Path("student", "model.safetensors")
    assert (output / student).read_bytes() == (root / "long" / student).read_bytes()

    again = kdcache("train", config, "--nproc", 2)
    assert again.returncode == 0
    assert "is finished: 60 of 60 steps" in again.stderr

    changed = kdcache("train", config, "-o", "optimizer.learning_rate=0.5")
    assert changed.returncode == 2
    assert "got optimizer.learning_rate 0.5, expected 0.02 as in the checkpoints" in changed.stderr


@pytest.mark.launch
def test_ranks_end_when_a_launcher_above_them_is_killed(root: Path, tmp_path: Path) -> None:
    """First DeepSpeed's launcher between the command and its ranks, then the command itself. No checkpoint was due."""
    output = tmp_path / "out"
    config = write_config(tmp_path / "train.yaml", **train_settings(root / "cache", output, steps=3000))
    for its_own in (False, True):
        process = start(config, "--nproc", 2)
        wait_for_step(output, 3)
        ranks = [*ranks_of(process).values()]
        assert len(ranks) == 2
        (process if its_own else ranks[0].parent()).kill()  # type: ignore[union-attr]
        assert not psutil.wait_procs(ranks, timeout=30)[1]
        _, words = process.communicate(timeout=60)
        assert "Traceback" not in words
        (output / "log.jsonl").unlink()
        if its_own:
            assert "kdcache: the launcher, process " in words
        else:
            assert process.returncode == 1
            assert "a rank or its launcher was ended by signal 9" in words
            assert "no checkpoint was written yet: the same command begins at step 0 again" in words


@pytest.mark.launch
def test_a_fault_that_all_ranks_meet_is_told_once(root: Path, tmp_path: Path) -> None:
    narrow = {"config": student_config(vocab_size=200)}
    config = write_config(tmp_path / "train.yaml", **train_settings(root / "cache", tmp_path / "out", student=narrow))
    done = kdcache("train", config, "--nproc", 2, env=ONE_THREAD)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "kdcache: got a student with 200 classes (vocab_size), expected at least the cache's 300; "
        "a wider student learns that the others never occur"
    ]
    assert done.stdout == ""


@pytest.mark.launch
def test_a_fault_of_one_rank_ends_the_others_quietly(root: Path, tmp_path: Path) -> None:
    """A shard with a flipped byte, which one of the two ranks reads."""
    cache = Path(shutil.copytree(root / "cache", tmp_path / "cache"))
    shard = cache / "shards/000" / "000004.zarr.zip"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    config = write_config(tmp_path / "train.yaml", **train_settings(cache, tmp_path / "out"))
    done = kdcache("train", config, "--nproc", 2, env=ONE_THREAD)
    assert done.returncode == 1
    assert done.stderr.count("kdcache: ") == 1, done.stderr
    assert "000004" in done.stderr
    assert "Traceback" not in done.stderr


def unfinished(path: Path) -> Path:
    write_cache(path, examples=16)
    (path / "cache.json").unlink()
    (path / ".kdcache" / "finished.json").unlink()
    return path


def without_its_tokenizer(path: Path) -> Path:
    make_tokenizer(path / "from")
    write_cache(path / "cache", examples=16, classes=320, tokenizer=path / "from")
    (path / "cache" / "tokenizer" / "tokenizer.json").unlink()
    return path / "cache"


def mixed(*folders: Path, weight: float = 1.0) -> dict[str, Any]:
    """caches in place of cache, all with one weight."""
    return {"cache": None, "caches": [{"path": str(folder), "weight": weight} for folder in folders]}


def of_tokenizer(path: Path, *, swapped: bool) -> Path:
    """A cache of a tokenizer, two of whose tokens may have changed places."""
    make_tokenizer(path / "from")
    if swapped:
        file = path / "from" / "tokenizer.json"
        whole = json.loads(file.read_text())
        vocab = whole["model"]["vocab"]
        vocab["x"], vocab["z"] = vocab["z"], vocab["x"]
        file.write_text(json.dumps(whole))
    return write_cache(path / "cache", examples=16, seed=swapped, classes=320, tokenizer=path / "from")


WARM = TopK(k=8, curve=CurveSpec(temperatures=(2.0,)))
MISTAKES: dict[str, tuple[Callable[[Path], dict[str, Any]], int | None, int, str]] = {
    "unfinished cache": (
        lambda p: {"cache": str(unfinished(p / "half"))},
        None,
        1,
        "is not finished: 2 units committed",
    ),
    "no cache": (lambda p: {"cache": str(p / "none")}, None, 2, "is not a cache"),
    "tokenizer of the cache": (
        lambda p: {"cache": str(without_its_tokenizer(p / "tokenless"))},
        None,
        1,
        "tokenizer.json is missing, expected the file with sha256",
    ),
    "nothing supervised": (
        lambda p: {"cache": str(write_cache(p / "empty", examples=16, unsupervised=1.0))},
        None,
        1,
        "has no supervised position in its 16 examples",
    ),
    "labels only": (
        lambda p: {"cache": str(write_cache(p / "labels", examples=16, record=None))},
        None,
        1,
        "holds labels and no teacher, expected one for a divergence term",
    ),
    "labels only, weighted": (
        lambda p: {
            "cache": str(write_cache(p / "labels", examples=16, record=None)),
            "terms": [{"name": "cross_entropy", "weighting": "entropy"}],
        },
        None,
        1,
        "holds labels and no teacher, expected one for an entropy-weighted cross_entropy term",
    ),
    "entropy temperature": (
        lambda p: {
            "cache": str(write_cache(p / "warm", examples=4, record=WARM)),
            "terms": [{"name": "cross_entropy", "weighting": "entropy"}],
        },
        None,
        2,
        "temperature 3 is not in the cache: its records store 2",
    ),
    "no features": (
        lambda p: {"terms": [{"name": "divergence"}, {"name": "bottleneck"}]},
        None,
        1,
        "holds no features of the teacher, expected them for a bottleneck term: dump again with a record",
    ),
    "temperature": (
        lambda p: {
            "cache": str(write_cache(p / "warm", examples=4, record=WARM)),
            "terms": [{"name": "divergence", "temperature": 3.0}],
        },
        None,
        2,
        "temperature 3 is not in the cache: its records store 2",
    ),
    "temperature of the held-out cache": (
        lambda p: {"eval": {"cache": str(write_cache(p / "warm", examples=4, record=WARM))}},
        None,
        2,
        "temperature 1 is not in the cache: its records store 2",
    ),
    "kind": (
        lambda p: {"terms": [{"name": "divergence", "kind": "alpha_beta", "alpha": 0.9, "beta": 0.8}]},
        None,
        2,
        "with alpha + beta above 1 on sparse records",
    ),
    "micro-batch": (
        lambda p: {"micro_batch": 3},
        2,
        2,
        "got micro_batch 3 and 4 examples per step for each of 2 ranks",
    ),
    "lanes": (lambda p: {}, 3, 2, "expected the world size to divide the lanes"),
    "DeepSpeed key of ours": (
        lambda p: {"deepspeed": {"train_batch_size": 8}},
        None,
        2,
        "got train_batch_size in deepspeed, expected it only in the training config: remove it and set global_batch",
    ),
    "unknown DeepSpeed key": (
        lambda p: {"deepspeed": {"zero_optimisation": {"stage": 1}}},
        None,
        2,
        "unknown key zero_optimisation in deepspeed; did you mean zero_optimization?",
    ),
    "monitor that is not installed": (
        lambda p: {"deepspeed": {"wandb": {"enabled": True}}},
        None,
        2,
        "got wandb.enabled in deepspeed and no package wandb, expected it installed (pip install wandb)",
    ),
    "output below a file": (
        lambda p: {"output": str(p / "cache" / "cache.json" / "run")},
        None,
        2,
        "cache.json is a file; expected a new folder",
    ),
    "unknown key": (lambda p: {"sead": 3}, None, 2, "unknown key sead; did you mean seed?"),
    "cache and caches": (
        lambda p: mixed(p / "a", p / "b") | {"cache": str(p / "a")},
        None,
        2,
        "got both cache and caches, expected exactly one of them",
    ),
    "no cache named": (lambda p: {"cache": None}, None, 2, "got neither cache nor caches"),
    "a mixture of one": (
        lambda p: mixed(p / "cache"),
        None,
        2,
        "got 1 in caches, expected two or more; for one cache use cache",
    ),
    "weight of nothing": (
        lambda p: mixed(p / "a", p / "b", weight=0),
        None,
        2,
        "caches.0.weight: got 0: input should be greater than 0",
    ),
    "a path twice": (lambda p: mixed(p / "cache", p / "cache"), None, 2, "cache twice in caches, expected different"),
    "a cache twice": (
        lambda p: mixed(p / "cache", Path(shutil.copytree(p / "cache", p / "copy"))),
        None,
        2,
        "which is the same cache twice, expected different ones",
    ),
    "caches of two tasks": (
        lambda p: mixed(p / "cache", write_cache(p / "other", examples=16, seed=1, task={"attention": "causal"})),
        None,
        1,
        "it is of causal_lm with attention causal, expected causal_lm with attention document",
    ),
    "caches of two sets of classes": (
        lambda p: mixed(p / "cache", write_cache(p / "other", examples=16, seed=1, classes=301)),
        None,
        1,
        "it has 301 classes, expected 300",
    ),
    "caches of two tokenizers": (
        lambda p: mixed(of_tokenizer(p / "one", swapped=False), of_tokenizer(p / "two", swapped=True)),
        None,
        1,
        "its tokens are of another tokenizer (",
    ),
    "caches of two kinds of records": (
        lambda p: mixed(p / "cache", write_cache(p / "other", examples=16, seed=1, record=TopK(k=8))),
        None,
        1,
        "it holds top_k, expected sampled",
    ),
    "caches of other settings of records": (
        lambda p: mixed(p / "cache", write_cache(p / "other", examples=16, seed=1, record=Sampled(exact_top_k=4))),
        None,
        1,
        "its record.exact_top_k is 4, expected 8",
    ),
    "a cache of a mixture without a teacher": (
        lambda p: mixed(p / "cache", write_cache(p / "other", examples=16, seed=1, record=None)),
        None,
        1,
        "other holds labels and no teacher, expected one for a divergence term",
    ),
    "a cache of a mixture smaller than the lanes": (
        lambda p: mixed(p / "cache", write_cache(p / "other", examples=3, seed=1)),
        None,
        2,
        "other with 3 examples, expected one at least for each lane of a mixture; set stream.lanes to 2",
    ),
    "cache too small": (
        lambda p: {"global_batch": 64, "stream": {"lanes": 64}},
        None,
        2,
        "got a cache of 16 examples and global_batch 64",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_before_anything_starts(tmp_path: Path, mistake: str) -> None:
    change, nproc, status, message = MISTAKES[mistake]
    cache = write_cache(tmp_path / "cache", examples=16)
    path = write_config(tmp_path / "train.yaml", **(train_settings(cache, tmp_path / "out") | change(tmp_path)))
    with pytest.raises(KdcacheError) as caught:
        run_train(load_config(TrainConfig, path), nproc=nproc, config_path=str(path), overrides=[])
    assert caught.value.exit_status == status
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("temperature", "warned"), [(0.5, False), (8.0, True)])
def test_a_noisy_temperature_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], temperature: float, warned: bool
) -> None:
    cache = write_cache(tmp_path / "cache", examples=16, record=Sampled(exact_top_k=2, samples=3))
    terms = ({"name": "divergence", "temperature": temperature}, {"name": "cross_entropy"})
    warn(train_config(cache, tmp_path / "out", terms=terms).terms, open_cache(cache), None)
    said = capsys.readouterr().err
    assert ("warning: at temperature 8 sampling adds noise" in said) == warned


def test_training_knows_nothing_of_teachers_and_imports_deepspeed_late() -> None:
    package = Path(kdcache_train.__file__).parent
    assert not [path for path in package.glob("*.py") if "kdcache.dump" in path.read_text()]
    look = "import sys, kdcache.train.run, kdcache.models.cut; print('deepspeed' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_train_does_not_look_for_a_teacher(tmp_path: Path) -> None:
    """The cache's copy of the tokenizer is all that is left of it; one process, an epoch, a folder that loads."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_tokenizer(tmp_path / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "teacher")
    write_cache(tmp_path / "cache", examples=16, classes=320, tokenizer=tmp_path / "teacher", teacher="gone")
    shutil.rmtree(tmp_path / "teacher")
    student = {"config": student_config(vocab_size=320)}
    settings = train_settings(tmp_path / "cache", tmp_path / "out", student=student)
    settings |= {"epochs": 1.0, "steps": None}
    done = kdcache("train", write_config(tmp_path / "train.yaml", **settings), env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out" / "student")
    assert loaded("cache teacher").input_ids == tokenizer("cache teacher").input_ids
    AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "student")
    assert "A student of gone" in (tmp_path / "out" / "student" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "done.json").read_text())["steps"] == 2


def said_of(tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: Path, held_out: Path) -> str:
    capsys.readouterr()
    config = train_config(cache, tmp_path / "out", eval={"cache": str(held_out)})
    warn(config.terms, open_cache(cache), open_cache(held_out))
    return capsys.readouterr().err


def test_a_held_out_cache_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = write_cache(tmp_path / "cache", examples=16, teacher="one")
    copy = shutil.copytree(cache, tmp_path / "copy")
    other = write_cache(tmp_path / "other", examples=16, seed=1, teacher="two")
    fine = write_cache(tmp_path / "fine", examples=16, seed=1, teacher="one")
    for same in (cache, copy):
        assert "holds shards of the training cache itself" in said_of(tmp_path, capsys, cache, same)
    assert "another teacher's records (two) than the training cache (one)" in said_of(tmp_path, capsys, cache, other)
    assert said_of(tmp_path, capsys, cache, fine) == ""
    warn([], open_cache(cache), open_cache(other), alone=False)
    assert f"warning: {cache}: eval.cache {other}" in capsys.readouterr().err
    pin = CorpusPin(sha256="a" * 64, files=1, rows=1, bytes=1)
    ours = write_cache(tmp_path / "ours", examples=16, corpus=pin)
    theirs = write_cache(tmp_path / "theirs", examples=16, seed=1, corpus=pin)
    assert "holds examples of the same corpus (aaaaaaaaaaaa) as the training cache" in said_of(
        tmp_path, capsys, ours, theirs
    )


def test_examples_that_an_epoch_leaves_out_are_counted(tmp_path: Path) -> None:
    cache = open_cache(write_cache(tmp_path / "cache", examples=38))
    settings = {"global_batch": 20, "micro_batch": 2, "stream": {"lanes": 20}, "steps": None}
    config = train_config(Path(cache.root.url), tmp_path / "out", **settings, epochs=1)
    run = plan(config)
    mixture = Mixture.of(cache)
    words = run.batches.spoken(mixture, run.pace(mixture).total_steps)
    assert words == "an epoch is 1 step of 20 examples: 18 of 38 are left out of it, others in each epoch"
    whole = config.model_copy(update={"global_batch": 19, "stream": StreamConfig(lanes=19)})
    assert plan(whole).batches.spoken(mixture, 2) == ""
    assert run.batches.spoken(mixture, 0) == ""


def test_the_passes_through_each_cache_of_a_mixture_are_told(tmp_path: Path) -> None:
    """An epoch is as many examples as all have."""
    parts = [{"path": str(write_cache(tmp_path / "a", examples=30)), "weight": 1}]
    parts += [{"path": str(write_cache(tmp_path / "b", examples=10, seed=1)), "weight": 1}]
    config = train_config(tmp_path, tmp_path / "out", cache=None, caches=parts, steps=None, epochs=2)
    run = plan(config)
    mixture, _ = open_caches(run)
    assert run.pace(mixture).total_steps == 10
    assert run.batches.spoken(mixture, 10) == (
        f"an epoch is 5 steps of 8 examples, as many as all caches have; 10 steps go through {tmp_path}/a 1.33 times, "
        f"{tmp_path}/b 4 times"
    )
