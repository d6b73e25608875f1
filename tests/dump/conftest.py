"""A dump of small random text by a small random teacher."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import sentences, write_jsonl

from kdcache.dump.settings import DumpConfig


@pytest.fixture
def make_config(teacher_folder: Path, tmp_path: Path) -> Callable[..., DumpConfig]:
    """make_config(output, **overrides of nested sections)"""

    def make(output: Path, **sections: object) -> DumpConfig:
        corpus = tmp_path / "corpus.jsonl"
        if not corpus.exists():
            write_jsonl(corpus, sentences(120))
        settings: dict = {
            "output": str(output),
            "corpus": {"paths": str(corpus), "format": "jsonl", "unit_rows": 10},
            "teacher": {"path": str(teacher_folder), "dtype": "float32"},
            "task": {"sequence_length": 64},
            "compute": {"batch_tokens": 192, "block_positions": 50, "threads": 1},
            "record": {"exact_top_k": 8},
        }
        for name, value in sections.items():
            old = None if name == "record" and "kind" in value else settings.get(name)  # type: ignore[operator]
            settings[name] = {**old, **value} if isinstance(value, dict) and isinstance(old, dict) else value
        return DumpConfig.model_validate(settings)

    return make
