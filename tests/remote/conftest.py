"""One S3 server for the session, and for each test a bucket of its own behind a proxy that is sound at first."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from remote.serving import Proxy, Store, environment, moto_server

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
