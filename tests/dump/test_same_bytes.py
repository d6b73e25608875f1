"""The first dump on a machine, whose ranks start one after the other, writes what every later one writes.

Where sums were added in another order, about one position of 16,000 came out otherwise after rounding, so that it takes
many of them to tell; tests/targets/test_same_bytes.py looks at the sums themselves, of which 94% differed.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import files_of, kdcache, sentences, write_jsonl

from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.launcher import World


@pytest.mark.long
def test_ranks_that_start_one_after_the_other_on_a_new_machine(
    make_config: Callable[..., DumpConfig], tmp_path: Path
) -> None:
    """The first rank compiles the loops, the second loads them; 391,637 positions."""
    write_jsonl(tmp_path / "corpus.jsonl", sentences(4000))
    config = make_config(tmp_path / "first", corpus={"unit_rows": 500})
    (tmp_path / "dump.yaml").write_text(config.model_dump_json(exclude_none=True))
    for rank in ("0", "1"):
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "home"), "RANK": rank, "WORLD_SIZE": "2"}
        done = kdcache("dump-logits", tmp_path / "dump.yaml", env=environment, timeout=1200)
        assert done.returncode == 0, done.stderr
    assert any((tmp_path / "home").rglob("*.nbc"))
    run_dump(make_config(tmp_path / "later", corpus={"unit_rows": 500}), World())
    assert files_of(tmp_path / "first") == files_of(tmp_path / "later")
