"""verify names the next command, and a test types it: afterwards the cache is what it was, byte for byte."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers import Run, files_of, make_model, make_tokenizer, next_typed, sentences, write_jsonl

from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.launcher import World
from kdcache.store.cache import read_manifest
from kdcache.store.files import Root
from kdcache.store.places import record_name

Damage = Callable[[Path], object]
KINDS = {
    "sampled": {"record": {"exact_top_k": 8}, "backend": "zarr"},
    "factored": {"record": {"kind": "factored", "rank": 8, "exact_top_k": 4}, "backend": "arrow"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cache of each kind, with the settings file of its dump, and what both were made of."""
    folder = tmp_path_factory.mktemp("repair")
    make_tokenizer(folder / "teacher")
    make_model(folder / "teacher", vocab_size=330)
    texts = sentences(40)
    rows = write_jsonl(folder / "corpus.jsonl", texts).read_text().splitlines()
    rows[3], rows[17] = '{"text": ', '{"text": 5}'
    (folder / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    for kind, settings in KINDS.items():
        config = {
            "output": str(folder / kind),
            "corpus": {"paths": str(folder / "corpus.jsonl"), "format": "jsonl", "unit_rows": 10},
            "teacher": {"path": str(folder / "teacher"), "dtype": "float32"},
            "task": {"sequence_length": 64},
            "compute": {"threads": 1, "batch_tokens": 192},
            "on_bad_row": "skip",
            "bad_rows_at_most": 0.1,
            **settings,
        }
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump(config))
        run_dump(DumpConfig.model_validate(config), World())
    return folder


@pytest.fixture(params=KINDS)
def cache(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> Path:
    """A copy of one, which may be damaged, in a folder with a space in its name."""
    return Path(shutil.copytree(made / request.param, tmp_path / f"my {request.param}"))


def config_of(made: Path, cache: Path) -> Path:
    return made / f"{cache.name.removeprefix('my ')}.yaml"


def shard(cache: Path, unit: int) -> Path:
    return next(path for path in (cache / "shards/000").glob(f"{unit:06d}.*") if path.suffix != ".json")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def files_named(cache: Path, *names: str) -> list[Path]:
    return [next(cache.glob(name)) for name in names]


DAMAGES: dict[str, Damage] = {
    "a bit of a shard": lambda cache: flip(shard(cache, 1)),
    "the end of a shard": lambda cache: cut_short(shard(cache, 3)),
    "a shard": lambda cache: shard(cache, 0).unlink(),
    "a shard and its record": lambda cache: [path.unlink() for path in (cache / "shards/000").glob("000002.*")],
    "all records": lambda cache: [path.unlink() for path in (cache / "shards/000").glob("*.json")],
    "a damaged record": lambda cache: flip(cache / "shards/000" / "000001.json"),
    "the header": lambda cache: (cache / "header.json").unlink(),
    "a damaged header": lambda cache: flip(cache / "header.json"),
    "cache.json": lambda cache: (cache / "cache.json").write_text("{"),
    "an edited cache.json": lambda cache: (cache / "cache.json").write_text(
        (cache / "cache.json").read_text().replace('"examples": ', '"examples": 1', 1)
    ),
    "the tokenizer": lambda cache: (cache / "tokenizer" / "tokenizer.json").write_text("{}"),
    "the list of skipped rows": lambda cache: (cache / "skipped.jsonl").unlink(),
    "leftovers": lambda cache: [
        (cache / name).write_bytes(b"x") for name in (".cache.json.0a.tmp", "shards/000/.000001.json.0b.tmp")
    ],
    "lost shards.arrow": lambda cache: (cache / "shards.arrow").unlink(),
    "a damaged shards.arrow": lambda cache: flip(cache / "shards.arrow"),
    "everything but cache.json and its table": lambda cache: [
        path.unlink()
        for path in cache.rglob("*")
        if path.is_file() and path.name not in ("cache.json", "shards.arrow") and ".kdcache" not in path.parts
    ],
}


def test_a_cache_that_keeps_no_settings_asks_for_them(run: Run, made: Path, cache: Path) -> None:
    before = files_of(cache)
    shutil.rmtree(cache / ".kdcache")
    (cache / "cache.json").unlink()
    shard(cache, 0).unlink()
    status, out, err = run("verify", cache, "--repair")
    assert status == 1
    assert "is not finished" in err
    (cache / "cache.json").write_text("{")
    status, out, err = run("verify", cache, "--repair")
    assert status == 1
    typed = next_typed(err)
    assert typed[-1] == "dump.yaml"
    status, out, err = run(*typed[:-1], config_of(made, cache))
    assert status == 0, out + err
    assert files_of(cache) == before


def test_settings_of_a_stranger_run_no_code(run: Run, made: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(made / "sampled", tmp_path / "sampled"))
    shard(cache, 1).unlink()
    owner = json.loads((cache / ".kdcache" / "owner.json").read_text())
    for key, value in (
        ("module", "antigravity"),
        ("teacher", owner["config"]["teacher"] | {"trust_remote_code": True}),
    ):
        changed = owner | {"config": owner["config"] | {key: value}}
        (cache / ".kdcache" / "owner.json").write_text(json.dumps(changed))
        status, out, _ = run("verify", cache, "--repair")
        assert status == 1
        assert "would run code" in out
        assert "antigravity" not in sys.modules
    typed = next_typed(out)
    assert typed[-1] == "dump.yaml"
    status, out, _ = run(*typed[:-1], made / "sampled.yaml")
    assert status == 0, out
    assert files_of(cache) == files_of(made / "sampled")


@pytest.mark.parametrize("unit", [0, 2])
def test_dump_makes_a_lost_shard_again_and_nothing_else(
    run: Run, made: Path, tmp_path: Path, unit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Path(shutil.copytree(made / "sampled", tmp_path / "sampled"))
    before = files_of(cache)
    command = ["dump-logits", made / "sampled.yaml", "-o", f"output={cache}"]
    cut_short(shard(cache, unit))
    with monkeypatch.context() as other:
        other.setattr("kdcache.dump.make.unit_arrays", other_arrays)
        status, _, err = run(*command)
    assert status == 1
    assert "made again it has another digest" in err
    assert files_of(cache).keys() == before.keys()
    typed = next_typed(err)
    assert typed[-1] == "COPY"
    status, _, err = run(*typed[:-1], made / "sampled")
    assert status == 0, err
    assert files_of(cache) == before
    cut_short(shard(cache, unit))
    status, _, err = run(*command)
    assert status == 0, err
    assert files_of(cache) == before
    flip(shard(cache, unit))
    status, _, err = run(*command)
    assert status == 0
    finished = next(line for line in err.splitlines() if "finished already" in line)
    status, _, err = run(*next_typed(finished))
    assert status == 1
    assert run(*next_typed(err))[0] == 0
    assert files_of(cache) == before


def test_a_command_that_misses_a_commit_record_tells_what_repairs(run: Run, cache: Path, tmp_path: Path) -> None:
    before = files_of(cache)
    (cache / record_name(0)).unlink()
    status, _, err = run("convert", cache, tmp_path / "arrow", "--to", "arrow")
    assert status == 1
    assert run(*next_typed(err))[0] == 0
    assert files_of(cache) == before
    assert run("convert", cache, tmp_path / "arrow", "--to", "arrow")[0] == 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_next_command_repairs(run: Run, made: Path, cache: Path, damage: str) -> None:
    before, digest = files_of(cache), read_manifest(Root(cache)).digest()
    DAMAGES[damage](cache)
    damaged = files_of(cache)
    status, out, err = run("verify", cache)
    assert status == 1
    assert [line for line in err.splitlines() if not line.startswith("verify: ")] == [err.splitlines()[-1]]
    assert files_of(cache) == damaged
    status, out, err = run(*next_typed(err))
    assert status == 0, out + err
    assert "every digest and count is right" in out
    assert files_of(cache) == before
    assert read_manifest(Root(cache)).digest() == digest
    assert run("verify", cache)[0] == 0


def test_a_lost_basis_is_made_again(run: Run, made: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(made / "factored", tmp_path / "factored"))
    before = files_of(cache)
    next(cache.glob("basis-*")).unlink()
    shard(cache, 1).unlink()
    (cache / "basis-000000000000.arrow").write_bytes(b"of other settings")
    status, out, err = run("verify", cache, "--repair", "--config", made / "factored.yaml")
    assert status == 1
    assert "basis-000000000000.arrow: is not part of the cache" in out
    status, out, err = run(*next_typed(err))
    assert status == 0, out + err
    assert files_of(cache) == before


def test_strangers_files_are_named_and_stay_without_force(run: Run, made: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(made / "sampled", tmp_path / "sampled"))
    before = files_of(cache)
    for name in ("shards/notes.txt", "shards/000/000009.json", "tokenizer/model.py", "README.md"):
        (cache / name).write_text("mine")
    status, out, err = run("verify", cache, "--repair")
    assert status == 1
    assert [line.partition(":")[0] for line in out.splitlines()] == [
        *("shards/000/000009.json", "shards/notes.txt", "tokenizer/model.py")
    ]
    assert (cache / "shards" / "notes.txt").read_text() == "mine"
    status, out, err = run(*next_typed(err))
    assert status == 0, out + err
    assert files_of(cache) == before | {"README.md": b"mine"}


def test_a_copy_repairs_without_settings_corpus_or_teacher(run: Run, made: Path, cache: Path) -> None:
    before = files_of(cache)
    good = made / cache.name.removeprefix("my ")
    for path in (shard(cache, 1), cache / "tokenizer" / "tokenizer.json"):
        flip(path)
    (cache / "cache.json").write_text("")
    (cache / "header.json").unlink()
    status, out, err = run("verify", cache, "--repair", "--from", good)
    assert status == 0, out + err
    assert f"{shard(cache, 1).relative_to(cache)}: from {good}" in out
    assert files_of(cache) == before


def test_what_nothing_else_repairs_comes_from_a_copy(run: Run, made: Path, cache: Path) -> None:
    """The command that is told where neither settings nor teacher are there, with the copy in place of COPY."""
    good, before = made / cache.name.removeprefix("my "), files_of(cache)
    shutil.rmtree(cache / ".kdcache")
    flip(shard(cache, 2))
    status, out, err = run("verify", cache, "--repair")
    assert status == 1
    typed = next_typed(out)
    assert typed[-2:] == ["--config", "dump.yaml"]
    with_copy = next_typed(err)
    assert with_copy[-1] == "COPY"
    status, _, err = run(*with_copy[:-1], good)
    assert status == 0, err
    assert files_of(cache) == before
    flip(shard(cache, 2))
    status, _, err = run(*typed[:-1], config_of(made, cache))
    assert status == 0, err
    assert files_of(cache) == before


@pytest.mark.parametrize("lost", ["a record", "the end"])
def test_a_cache_that_is_begun_goes_on_with_the_command_that_is_told(
    run: Run, made: Path, tmp_path: Path, lost: str
) -> None:
    """cache.json and a commit record were lost, or the dump never came to its end."""
    cache = Path(shutil.copytree(made / "sampled", tmp_path / "sampled"))
    before = files_of(cache)
    (cache / "cache.json").unlink()
    next(iter((cache / "shards/000").glob("000001.json"))).unlink()
    if lost == "the end":
        (cache / ".kdcache" / "finished.json").unlink()
    status, _, err = run("verify", cache, *(["--repair"] if lost == "a record" else []))
    assert status == 1
    typed = next_typed(err)
    assert typed == ["dump-logits", "dump.yaml"]
    status, _, err = run(typed[0], made / "sampled.yaml", "-o", f"output={cache}")
    assert status == 0, err
    assert files_of(cache) == before


def test_a_damaged_copy_repairs_nothing(run: Run, made: Path, cache: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(cache, tmp_path / "copy"))
    flip(shard(copy, 1))
    shard(cache, 1).unlink()
    shutil.rmtree(cache / ".kdcache")
    status, out, _ = run("verify", cache, "--repair", "--from", copy)
    assert status == 1
    assert not (cache / shard(copy, 1).relative_to(copy)).exists()
    assert f"from {copy}" not in out


CHANGES: dict[str, tuple[Callable[[dict], object], str]] = {
    "another teacher": (lambda config: config["teacher"].update(dtype="bfloat16"), r"made with teacher\.dtype float32"),
    "other settings": (lambda config: config["record"].update(exact_top_k=9), r"made with records\.\w+\.exact_top_k 8"),
    "another corpus": (lambda config: None, "its rows of the corpus changed"),
    "no teacher": (lambda config: config["teacher"].update(path="/nowhere"), "/nowhere"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_would_be_another_shard_is_refused(
    run: Run, made: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Path(shutil.copytree(made / "sampled", tmp_path / "sampled"))
    shard(cache, 1).unlink()
    (cache / "header.json").unlink()
    config = yaml.safe_load((made / "sampled.yaml").read_text())
    CHANGES[change][0](config)
    if change == "another corpus":
        rows = (made / "corpus.jsonl").read_text().splitlines()
        rows[11] = rows[0]
        (tmp_path / "corpus.jsonl").write_text("\n".join(rows) + "\n")
        config["corpus"]["paths"] = str(tmp_path / "corpus.jsonl")
    (tmp_path / "dump.yaml").write_text(yaml.safe_dump(config))
    status, out, _ = run("verify", cache, "--repair", "--config", tmp_path / "dump.yaml")
    assert status == 1
    assert re.search(CHANGES[change][1], out), out
    assert "header.json: as cache.json has it" in out
    assert not (cache / "shards/000" / "000001.zarr.zip").exists()


def test_other_versions_of_a_library_are_named(
    run: Run, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard whose recorded digest nobody can reach here, under a header that pins another numpy."""
    settings = yaml.safe_load((made / "sampled.yaml").read_text()) | {"output": str(tmp_path / "cache")}
    (tmp_path / "dump.yaml").write_text(yaml.safe_dump(settings))
    with monkeypatch.context() as other:
        other.setattr("kdcache.dump.pins.library_versions", lambda *a, **k: {"numpy": "1.0", "torch": "9.9"})
        run_dump(DumpConfig.model_validate(settings), World())
    cache = tmp_path / "cache"
    before = shard(cache, 2).read_bytes()
    shard(cache, 2).unlink()
    assert run("verify", cache, "--repair", "--config", tmp_path / "dump.yaml")[0] == 0
    assert shard(cache, 2).read_bytes() == before, "the same bytes are right whatever the versions"
    shard(cache, 2).unlink()
    monkeypatch.setattr("kdcache.dump.remake.unit_arrays", other_arrays)
    status, out, _ = run("verify", cache, "--repair", "--config", tmp_path / "dump.yaml")
    assert status == 1
    assert re.search(r"made again it has sha256 .*: numpy 1\.0 in the cache, .* here.*torch 9\.9 in the cache", out)
    assert not (cache / "shards/000" / "000002.zarr.zip").exists()


def other_arrays(*arguments: object, **settings: object) -> dict:
    """What other hardware might give."""
    from kdcache.dump.records import unit_arrays

    arrays = unit_arrays(*arguments, **settings)  # type: ignore[arg-type]
    return arrays | {"maximum": arrays["maximum"] + 1e-3}
