"""The first dump on a machine, whose ranks start one after the other, writes what every later one writes."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from helpers import files_of, kdcache

from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.launcher import World


def test_ranks_that_start_one_after_the_other_on_a_new_machine(
    make_config: Callable[..., DumpConfig], tmp_path: Path
) -> None:
    """The first rank compiles the loops, the second loads them; 13 of 32 shards differed."""
    config = make_config(tmp_path / "first")
    (tmp_path / "dump.yaml").write_text(config.model_dump_json(exclude_none=True))
    for rank in ("0", "1"):
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "home"), "RANK": rank, "WORLD_SIZE": "2"}
        done = kdcache("dump-logits", tmp_path / "dump.yaml", env=environment)
        assert done.returncode == 0, done.stderr
    assert any((tmp_path / "home").rglob("*.nbc"))
    run_dump(make_config(tmp_path / "later"), World())
    assert files_of(tmp_path / "first") == files_of(tmp_path / "later")
    assert len(json.loads((tmp_path / "later" / "cache.json").read_text())["shards"]) == 12
