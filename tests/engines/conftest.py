"""A corpus and settings files for SmolLM2, and the command line as a process: vLLM does not share one with others."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

TOPICS = ["assignment", "booleans", "break", "class", "compound", "debugger", "dict", "exceptions"]
VLLM = {"kind": "vllm", "arguments": {"enforce_eager": True}}

Dump = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of about 60 tokens, in three units of eight, packed into windows of 128."""
    from pydoc_data.topics import topics

    path = tmp_path_factory.mktemp("engines") / "texts.jsonl"
    texts = [topics[name][i : i + 250] for name in TOPICS for i in (0, 400, 900)][:24]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="session")
def settings(corpus: Path, smollm2_folder: Path) -> Callable[..., Path]:
    """settings(output, engine=…, **sections): the settings file of a dump."""

    def write(output: Path, engine: Any = VLLM, dtype: str = "float32", **sections: Any) -> Path:
        whole = {
            "output": str(output),
            "corpus": {"paths": str(corpus), "format": "jsonl", "unit_rows": 8},
            "teacher": {"path": str(smollm2_folder), "dtype": dtype, "engine": engine},
            "task": {"sequence_length": 128},
        } | sections
        path = output.with_suffix(".yaml")
        path.write_text(yaml.safe_dump(whole))
        return path

    return write


@pytest.fixture(scope="session")
def kdcache() -> Dump:
    """kdcache("verify", cache): a process of its own."""

    def run(*arguments: object, status: int = 0) -> subprocess.CompletedProcess:
        words = [sys.executable, "-m", "kdcache", *map(str, arguments)]
        done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    return run
