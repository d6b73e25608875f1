"""verify --repair on s3:// and memory://: each kind of damage, with the command that verify itself names."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from remote.serving import Run, Store, only

from kdcache.store.cache import read_manifest
from kdcache.store.files import Root
from kdcache.store.manifest import Manifest
from kdcache.store.shard import record_name

Damage = Callable[[Root, Manifest], object]


def names_of(root: Root, manifest: Manifest) -> list[str]:
    """All files of a cache."""
    tokenizer = [f"tokenizer/{name}" for name in manifest.header.tokenizer.files] if manifest.header.tokenizer else []
    shards = [name for commit in manifest.shards for name in (commit.file, record_name(commit.unit))]
    return [name for name in ("cache.json", "header.json", *tokenizer, *shards) if root.exists(name)]


def contents(url: str, manifest: Manifest) -> dict[str, bytes]:
    root = Root(url)
    return {name: root.read(name) for name in names_of(root, manifest)}


def flip(root: Root, name: str) -> None:
    data = bytearray(root.read(name))
    data[len(data) // 2] ^= 1
    root.write(name, bytes(data))


def leave_behind(root: Root, manifest: Manifest) -> None:
    """What a copied folder brings along: a write that was not finished."""
    folder = manifest.shards[0].file.rpartition("/")[0]
    assert root.local is None
    root._files.write(f"{folder}/.000000.zarr.zip.0a.tmp", b"half")


def lose_shards(root: Root, manifest: Manifest) -> None:
    """A shard, a bit of another one, a record and a bit of another one, the tokenizer."""
    first, second, third = manifest.shards[:3]
    root.delete([first.file, record_name(second.unit)])
    flip(root, second.file)
    flip(root, record_name(third.unit))
    root.write("tokenizer/tokenizer.json", b"{}")


DAMAGES: dict[str, Damage] = {
    "shards, records and the tokenizer": lose_shards,
    "no header": lambda root, cache: root.delete("header.json"),
    "a damaged header, and leftovers": lambda root, cache: [flip(root, "header.json"), leave_behind(root, cache)],
    "a damaged cache.json": lambda root, cache: root.write("cache.json", b"{"),
    "everything but cache.json": lambda root, cache: root.delete(
        [name for name in names_of(root, cache) if name != "cache.json"]
    ),
}


@pytest.fixture(params=["s3", "memory"])
def url(request: pytest.FixtureRequest, store: Store, run: Run, config: Path, tmp_path: Path) -> str:
    """A finished cache, and a copy of it on a disk."""
    made = f"{store.url}/cache" if request.param == "s3" else f"memory://{tmp_path.name}/cache"
    local = tmp_path / "copy"
    for output in (made, str(local)):
        status, said = run("dump-logits", config, "-o", f"output={output}")
        assert status == 0, said
    return made


@pytest.mark.parametrize("way", ["made again", "from a copy"])
def test_each_damage_is_repaired(url: str, run: Run, config: Path, tmp_path: Path, way: str) -> None:
    manifest = read_manifest(Root(url))
    before = contents(url, manifest)
    repair = ["--config", str(config)] if way == "made again" else ["--from", str(tmp_path / "copy")]
    for name, damage in DAMAGES.items():
        damage(Root(url), manifest)
        status, said = run("verify", url)
        assert status == 1, f"{name}: {said}"
        typed = re.search(r"\brun (kdcache verify .+)$", only(said))
        assert typed, said
        command = shlex.split(typed[1])[1:]
        assert "--repair" in command
        status, said = run(*command, *([] if "--config" in command else repair))
        assert status == 0, f"{name}: {said}"
        assert contents(url, manifest) == before, name
        assert run("verify", url)[0] == 0, name


def test_what_cannot_be_repaired_is_one_line(url: str, run: Run, tmp_path: Path) -> None:
    """Nothing is deleted, and the copy of another cache helps nobody."""
    manifest = read_manifest(Root(url))
    Root(url).delete(manifest.shards[1].file)
    before = contents(url, manifest)
    other = Root(tmp_path / "copy")
    flip(other, manifest.shards[1].file)
    status, said = run("verify", url, "--repair", "--from", tmp_path / "copy", "--config", tmp_path / "nowhere.yaml")
    assert status != 0
    assert only(said)
    assert contents(url, manifest) == before
