"""One S3 server for the session, and for each test a bucket of its own behind a proxy that is sound at first."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import helpers
import pytest
import yaml
from helpers import sentences
from remote.serving import Proxy, Run, Store, environment, moto_server, only

NUMBER = itertools.count()


@pytest.fixture(scope="session")
def proxy() -> Iterator[Proxy]:
    with moto_server() as port:
        made = Proxy(port)
        made.start()
        yield made
        made.stop()


@pytest.fixture
def store(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    import boto3
    import s3fs

    proxy.reset()
    env = environment(proxy.port) | {"XDG_CACHE_HOME": str(tmp_path / "xdg")}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{proxy.upstream}")
    bucket = f"bucket-{next(NUMBER)}"
    client.create_bucket(Bucket=bucket)
    yield Store(proxy, bucket, env, client)
    proxy.reset()
    client.close()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def run(store: Store, run: helpers.Run) -> Run:
    """A command, in this process; its exit status and all that it said. A failure must be one line."""

    def call(*arguments: object) -> tuple[int, str]:
        status, *both = run(*arguments)
        said = "\n".join(both)
        assert "Traceback" not in said
        if status:
            only(said)
        return status, said

    return call


@pytest.fixture
def config(store: Store, teacher_folder: Path, tmp_path: Path) -> Path:
    """Settings of a dump from s3:// to s3://, of 6 shards."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in sentences(60))
    store.put("corpus/rows.jsonl", lines.encode())
    (tmp_path / "rows.jsonl").write_text(lines)
    settings = {
        "output": f"{store.url}/cache",
        "corpus": {"paths": f"{store.url}/corpus/*.jsonl", "format": "jsonl", "unit_rows": 10},
        "teacher": {"path": str(teacher_folder), "dtype": "float32"},
        "task": {"sequence_length": 64},
        "record": {"exact_top_k": 8},
        "compute": {"threads": 1},
    }
    path = tmp_path / "dump.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path
