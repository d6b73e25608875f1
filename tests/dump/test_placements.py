"""Teachers that several ranks hold together: records are those of a whole copy, and no rank waits for a dead one.

The ranks are real processes that talk by gloo; each launch takes 10 to 60 s.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from classes import moods, write_rows
from families import saved
from helpers import make_tokenizer, sentences, write_jsonl

import kdcache as library
from kdcache.dump.placements.meeting import Meeting
from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.errors import ConfigError, TeacherError
from kdcache.launcher import World
from kdcache.train.distributed import free_port

Settings = Callable[..., Path]
PAIR = {"placement": "tensor_parallel", "ranks_per_replica": 2}


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """wide(tied): a Llama with two heads for keys, whose matrices ZeRO-3 splits, and an odd number of classes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    made: dict[bool, Path] = {}

    def make(tied: bool) -> Path:
        if tied not in made:
            made[tied] = tmp_path_factory.mktemp("wide")
            torch.manual_seed(0)
            config = LlamaConfig(
                vocab_size=321,
                hidden_size=128,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=128,
                tie_word_embeddings=tied,
                initializer_range=0.1,
                bos_token_id=None,
                eos_token_id=0,
            )
            LlamaForCausalLM(config).save_pretrained(made[tied])
            make_tokenizer(made[tied])
        return made[tied]

    return make


@pytest.fixture
def settings(tmp_path: Path, wide: Callable[[bool], Path]) -> Settings:
    """settings(name, record, **of the teacher): the settings file of a dump into tmp_path / name."""

    def write(
        name: str, record: Any, *, tied: bool = False, rows: int = 60, sections: Any = None, **teacher: Any
    ) -> Path:
        corpus = write_jsonl(tmp_path / f"{rows}.jsonl", sentences(rows))
        whole = {
            "output": str(tmp_path / name),
            "corpus": {"paths": str(corpus), "format": "jsonl", "unit_rows": 10},
            "teacher": {"path": str(wide(tied)), "dtype": "float32", **teacher},
            "task": {"sequence_length": 64},
            "compute": {"batch_tokens": 192, "block_positions": 50, "threads": 1},
            "record": record,
        } | (sections or {})
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(whole))
        return path

    return write


class Ranks:
    """The processes of a launch by hand, as srun would start them."""

    def __init__(self, world: int, config: Path, *arguments: str) -> None:
        environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self.all = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "kdcache", "dump-logits", str(config), *arguments),
                    *("--rank", str(rank), "--world-size", str(world)),
                ],
                env=environment,
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]

    def end(self, seconds: float = 240) -> list[str]:
        """What each says on standard error, once all have ended."""
        deadline = time.monotonic() + seconds
        return [process.communicate(timeout=max(1, deadline - time.monotonic()))[1] for process in self.all]

    @property
    def statuses(self) -> list[int]:
        return [process.returncode for process in self.all]


@pytest.fixture
def ranks() -> Iterator[Callable[..., Ranks]]:
    started: list[Ranks] = []

    def start(world: int, config: Path, *arguments: str) -> Ranks:
        started.append(Ranks(world, config, *arguments))
        return started[-1]

    yield start
    for process in (process for launch in started for process in launch.all):
        if process.poll() is None:
            process.kill()
            process.communicate()


def dumped_whole(config: Path) -> None:
    """By one process that holds a whole copy."""
    settings = yaml.safe_load(config.read_text())
    for name in ("placement", "ranks_per_replica"):
        settings["teacher"].pop(name, None)
    run_dump(DumpConfig.model_validate(settings | {"output": settings["output"] + "-whole"}), World())


def caches(config: Path) -> tuple[Any, Any]:
    """(as the settings file places the teacher, from a whole copy)."""
    output = yaml.safe_load(config.read_text())["output"]
    return library.open_cache(output), library.open_cache(output + "-whole")


def targets(cache: Any) -> Any:
    return cache.read(0, len(cache)).targets()


def complaints(said: list[str]) -> list[str]:
    return [line for each in said for line in each.splitlines() if line.startswith("kdcache: ")]


def launched(config: Path, world: int, environment: dict[str, str]) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world)]
    command += ["--master-port", str(free_port()), "-m", "kdcache", "dump-logits", str(config)]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_tensor_parallel_gives_the_records_of_a_whole_copy(settings: Settings) -> None:
    """Under torchrun, whose own store the ranks meet in."""
    config = settings("dense", {"kind": "dense"}, **PAIR)
    done = launched(config, 2, {})
    assert done.returncode == 0, done.stderr
    dumped_whole(config)
    p_PV, q_PV = (targets(cache).dense_log_probs(1.0).double() for cache in reversed(caches(config)))
    kl_P = (p_PV.exp() * (p_PV - q_PV)).sum(-1)
    assert 0 < kl_P.abs().max() <= 1e-6, "0 would say that it was not split"
    pinned = caches(config)[0].manifest.header.compute
    assert (pinned["placement"], pinned["ranks_per_replica"]) == ("tensor_parallel", 2)


def test_a_killed_rank_ends_the_other_and_twice_as_many_go_on(settings: Settings, ranks: Callable[..., Ranks]) -> None:
    """Tied embeddings, and a record that needs the whole output layer."""
    config = settings("killed", {"kind": "sampled"}, tied=True, rows=150, **PAIR)
    shards = Path(yaml.safe_load(config.read_text())["output"]) / "shards"
    two = ranks(2, config)
    deadline = time.monotonic() + 200
    while not [*shards.glob("*/*.json")]:
        assert time.monotonic() < deadline
        assert two.all[0].poll() is None, two.end()
        time.sleep(0.02)
    two.all[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    said = two.end()
    assert time.monotonic() - killed < 45
    assert two.statuses == [1, -signal.SIGKILL]
    assert len(complaints(said)) == 1, said
    assert "run the same command again" in complaints(said)[0]
    assert "Traceback" not in said[0]
    stood = {path.name: path.read_bytes() for path in shards.glob("*/*.json")}
    assert 0 < len(stood) < 15

    four = ranks(4, config)
    said = four.end()
    assert four.statuses == [0, 0, 0, 0], said
    assert all((shards / "000" / name).read_bytes() == data for name, data in stood.items())
    dumped_whole(config)
    found, whole = map(targets, caches(config))
    differ_P = found.num_certain_P != whole.num_certain_P
    assert differ_P.float().mean() < 0.01, "but for near ties with the limit"
    certain_PE = (torch.arange(found.ids_PE.shape[1]) < found.num_certain_P[:, None])[~differ_P]
    width = min(found.ids_PE.shape[1], whole.ids_PE.shape[1])
    same_PE = found.ids_PE[~differ_P][:, :width] == whole.ids_PE[~differ_P][:, :width]
    assert (~same_PE & certain_PE[:, :width]).float().mean() < 1e-3, "but for near ties with each other"
    assert (found.log_partition(1.0) - whole.log_partition(1.0)).abs().max() < 2e-3


def test_zero3_gives_the_records_of_a_whole_copy_bit_for_bit(settings: Settings, ranks: Callable[..., Ranks]) -> None:
    config = settings("factored", {"kind": "factored", "rank": 16}, tied=True, placement="zero3", ranks_per_replica=2)
    two = ranks(2, config)
    said = two.end()
    assert two.statuses == [0, 0], said
    dumped_whole(config)
    found, whole = caches(config)
    for unit in range(6):
        a, b = (cache.read_shard(unit).arrays for cache in (found, whole))
        assert a.keys() == b.keys()
        assert all((a[name] == b[name]).all() for name in a)


@pytest.mark.parametrize("placement", ["tensor_parallel", "zero3"])
def test_a_classifier(placement: str, tmp_path: Path, settings: Settings, ranks: Callable[..., Ranks]) -> None:
    from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

    shape = {"vocab_size": 320, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_labels": 2}
    names = {"id2label": {0: "bright", 1: "dark"}, "label2id": {"bright": 0, "dark": 1}, "pad_token_id": 0}
    shape |= {"num_attention_heads": 4, "max_position_embeddings": 128, "initializer_range": 0.2, **names}
    torch.manual_seed(0)
    model = (
        LlamaForSequenceClassification(LlamaConfig(num_key_value_heads=2, **shape))
        if placement == "tensor_parallel"
        else BertForSequenceClassification(BertConfig(**shape))
    )
    model.save_pretrained(tmp_path / "classifier")
    make_tokenizer(tmp_path / "classifier")
    corpus = write_rows(tmp_path / "moods.jsonl", moods(30))
    fields = {"paths": str(corpus), "format": "jsonl", "unit_rows": 10, "label_field": "label"}
    sections = {"corpus": fields, "task": {"name": "sequence_classification", "max_length": 32}}
    given = {"path": str(tmp_path / "classifier"), "placement": placement, "ranks_per_replica": 2}
    config = settings("moods", [{"kind": "dense"}, {"kind": "features"}], sections=sections, **given)
    two = ranks(2, config)
    said = two.end()
    assert two.statuses == [0, 0], said
    dumped_whole(config)
    for unit in range(3):
        a, b = (cache.read_shard(unit).arrays for cache in caches(config))
        for name in a:
            torch.testing.assert_close(torch.tensor(a[name]), torch.tensor(b[name]), rtol=1e-3, atol=1e-4)


def test_a_bad_row_ends_all_with_one_line(settings: Settings, ranks: Callable[..., Ranks]) -> None:
    config = settings("bad", {"kind": "sampled"}, placement="zero3", ranks_per_replica=2)
    corpus = Path(yaml.safe_load(config.read_text())["corpus"]["paths"])
    lines = corpus.read_text().splitlines()
    corpus.write_text("\n".join([*lines[:35], '{"text": null}', *lines[36:]]) + "\n")
    two = ranks(2, config)
    said = two.end()
    assert two.statuses == [1, 1]
    (line,) = complaints(said)
    assert "60.jsonl:36: text is null" in line


def placed(folder: Path, settings: Settings, **teacher: Any) -> DumpConfig:
    config = settings("refused", {"kind": "sampled"}, **{"path": str(folder), **PAIR, **teacher})
    return DumpConfig.model_validate(yaml.safe_load(config.read_text()))


@pytest.mark.parametrize(
    ("family", "given", "words"),
    [
        ("gpt2", {}, r"type gpt2, for which transformers has no tensor-parallel plan, expected placement: zero3"),
        (
            "llama",
            {"ranks_per_replica": 4},
            r"ranks_per_replica 4 and a model with 2 attention heads for keys.* expected 2$",
        ),
    ],
)
def test_models_that_cannot_be_split_are_refused_before_anything_is_loaded(
    family: str, given: dict, words: str, tmp_path: Path, settings: Settings
) -> None:
    from types import SimpleNamespace

    from kdcache.dump.placements.placement import placement_of

    config = placed(saved(family, tmp_path / family), settings, **given).teacher
    assert config != "none"
    replica = SimpleNamespace(size=config.ranks_per_replica)
    with pytest.raises(ValueError, match=words):
        placement_of(config).load(None, config.path, config, [torch.device("cpu")], replica)  # type: ignore[arg-type]


def test_what_does_not_go_together_is_refused(wide: Callable[[bool], Path], settings: Settings) -> None:
    folder = wide(False)
    for given, words in (
        ({"ranks_per_replica": 1}, "with ranks_per_replica 1, expected 2 or more"),
        ({"gpus_per_replica": 2}, "got teacher.gpus_per_replica 2 for placement tensor_parallel"),
        ({"placement": "replicate"}, "got teacher.ranks_per_replica 2 for placement replicate"),
    ):
        with pytest.raises(ValueError, match=words):
            placed(folder, settings, **given)
    config = placed(folder, settings)
    for world, words in ((World(), "got 1 rank for teacher.ranks_per_replica 2"), (World(1, 3), "got 3 ranks for")):
        with pytest.raises(ConfigError, match=f"{words}.*a multiple of 2: torchrun --nproc-per-node 2"):
            run_dump(config, world)
    with pytest.raises(ConfigError, match="got 4 ranks without MASTER_ADDR"):
        Meeting(World(1, 4), 2, {})


def test_a_sharded_teacher_is_not_loaded_by_one_process(wide: Callable[[bool], Path], settings: Settings) -> None:
    from kdcache.dump.teacher import load_model
    from kdcache.tasks import task_of

    config = placed(wide(False), settings)
    assert config.teacher != "none"
    with pytest.raises(TeacherError, match=r"runs the teacher in 2 ranks together, .* torchrun --nproc-per-node 2"):
        load_model(config.teacher, config.compute, World(), task_of(config.task))


def test_files_that_differ_between_machines_are_refused(tmp_path: Path, wide: Callable[[bool], Path]) -> None:
    import shutil

    from kdcache.dump.teacher_files import TeacherFiles, check_copy

    marks = TeacherFiles(wide(False), code=False).marks
    copy = shutil.copytree(wide(False), tmp_path / "copy")
    check_copy(copy, marks)
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    with pytest.raises(TeacherError, match=r"config.json on .* has sha256 .*the same files on all"):
        check_copy(copy, marks)
    (copy / "config.json").unlink()
    with pytest.raises(TeacherError, match=r"config.json on .* is not there"):
        check_copy(copy, marks)
