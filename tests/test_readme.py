"""The README quotes what the tests run, and names what is there."""

from pathlib import Path

import pytest

from kdcache.cli import cli

REPO = Path(__file__).parent.parent
README = (REPO / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["plain_zarr.py", "plain_pandas.py"])
def test_snippets_are_the_tested_ones(name: str) -> None:
    assert f"```python\n{(REPO / 'tests' / 'store' / name).read_text().strip()}\n```" in README


def test_every_command_and_config_is_named() -> None:
    for command in cli.commands:
        assert f"kdcache {command}" in README
    for path in (REPO / "configs").glob("**/*.yaml"):
        assert path.name in README, path
    for path in (REPO / "launch").glob("*.slurm"):
        assert path.name in README, path


def test_paths_that_it_names_exist() -> None:
    words = {word.strip("`(),:;.|") for word in README.split()}
    named = {w for w in words if w.startswith(("launch/", "configs/", "kdcache/")) and "*" not in w and "…" not in w}
    assert len(named) > 5
    assert [name for name in sorted(named) if not (REPO / name).exists()] == []
