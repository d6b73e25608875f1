"""A file of a local cache that cannot be read now is no damage: one line, exit status 1, and nothing is touched."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import Run, files_of, next_typed
from store.making import CLASSES, write_cache

from kdcache.errors import UnreadableError
from kdcache.store.cache import open_cache
from kdcache.store.verify import verify
from kdcache.stream.loader import Loader

SHARD = "shards/000/000000.zarr.zip"
Fail = Callable[[str, int], None]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """From now on the system refuses to open files whose path ends so; the tests run as root, whom no mode refuses."""
    opened = os.open

    def refuse(end: str, error: int) -> None:
        def failing(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            if not flags & os.O_WRONLY and str(path).endswith(end):
                raise OSError(error, os.strerror(error), path)
            return opened(path, flags, *rest, **named)

        monkeypatch.setattr(os, "open", failing)

    return refuse


@pytest.fixture
def said(run: Run) -> Callable[..., str]:
    """What a command says that ends with exit status 1."""

    def call(*arguments: object) -> str:
        status, *both = run(*arguments)
        text = "".join(both)
        assert status == 1, text
        assert len([line for line in text.splitlines() if line.startswith("kdcache: ")]) == 1, text
        return text

    return call


def train_yaml(tmp_path: Path) -> Path:
    model = {"model_type": "llama", "vocab_size": CLASSES, "hidden_size": 8, "num_hidden_layers": 1}
    settings = {
        "cache": str(tmp_path / "cache"),
        "output": str(tmp_path / "run"),
        "student": {"config": {**model, "intermediate_size": 8, "num_attention_heads": 1}},
        "global_batch": 2,
        "micro_batch": 2,
        "stream": {"lanes": 2},
        "steps": 1,
        "optimizer": {"learning_rate": 0.01},
        "device": "cpu",
    }
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.parametrize(
    ("error", "words"), [(errno.EIO, "Input/output error"), (errno.EACCES, "let this user read it")]
)
@pytest.mark.parametrize("name", ["cache.json", "header.json", "shards/000/000000.json", SHARD])
def test_every_command_says_so(
    name: str, error: int, words: str, tmp_path: Path, fail: Fail, said: Callable[..., str]
) -> None:
    cache = tmp_path / "cache"
    write_cache(cache)
    before = files_of(cache)
    commands: list[tuple[object, ...]] = [("verify", cache), ("verify", cache, "--repair")]
    if name in ("cache.json", SHARD):
        commands += [("convert", cache, tmp_path / "other", "--to", "arrow"), ("train", train_yaml(tmp_path))]
    if name == "cache.json":
        commands += [("inspect", cache), ("eval", tmp_path, "--cache", cache, "--device", "cpu")]
    fail(f"cache/{name}", error)
    for command in commands:
        text = said(*command)
        assert f"cannot read {cache}/{name}: " in text, text
        assert words in text
        assert "nothing says that it is damaged" in text
        advice = text.replace("nothing says that it is damaged", "")
        assert "damaged" not in advice, text
        assert "--repair" not in advice or "--repair" in command, text
    assert files_of(cache) == before


def test_a_folder_in_place_of_a_shard(tmp_path: Path, said: Callable[..., str], run: Run) -> None:
    cache = tmp_path / "cache"
    write_cache(cache)
    for command in (("verify", cache), ("verify", cache, "--repair")):
        (cache / SHARD).rename(tmp_path / "shard")
        (cache / SHARD).mkdir()
        text = said(*command)
        assert f"cannot read {cache}/{SHARD}: Is a directory; nothing says that it is damaged" in text
        (cache / SHARD).rmdir()
        (tmp_path / "shard").rename(cache / SHARD)
        assert next_typed(text) == [*map(str, command)]
        assert run(*next_typed(text))[0] == 0


def test_other_faults_are_found_and_mended_all_the_same(tmp_path: Path, fail: Fail, said: Callable[..., str]) -> None:
    cache = tmp_path / "cache"
    write_cache(cache)
    record = cache / "shards/000" / "000001.json"
    sound = record.read_bytes()
    record.write_bytes(sound + b" ")
    fail(SHARD, errno.EIO)
    assert [(fault.shard, fault.unreadable) for fault in verify(cache)] == [
        (SHARD, True),
        ("shards/000/000001.json", False),
    ]
    assert "1 file cannot be read now, expected to read all, and 1 other damaged; delete nothing" in said(
        "verify", cache
    )
    assert "1 file cannot be read now, expected to read all; delete nothing" in said("verify", cache, "--repair")
    assert record.read_bytes() == sound


def test_the_loader_says_so(tmp_path: Path, fail: Fail) -> None:
    write_cache(tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    fail(SHARD, errno.EIO)
    with (
        Loader(cache, global_batch=2, lanes=2) as loader,
        pytest.raises(UnreadableError, match="Input/output error"),
    ):
        [next(loader) for _ in range(loader.steps_per_epoch)]
    with pytest.raises(UnreadableError, match="Input/output error"):
        cache.read(0, 1)


def test_a_lost_cache_json_beside_an_unreadable_mark(tmp_path: Path, fail: Fail, said: Callable[..., str]) -> None:
    """It is not said to be unfinished, and nothing is made anew."""
    cache = tmp_path / "cache"
    write_cache(cache)
    (cache / "cache.json").unlink()
    fail("finished.json", errno.EIO)
    for command in (("verify", cache), ("verify", cache, "--repair"), ("inspect", cache)):
        assert "finished.json: Input/output error" in said(*command)
    assert not (cache / "cache.json").exists()
