"""A cache behind a plain web server, which has no folders to list and may not be there."""

import http.server
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from remote.serving import Run, free_port
from store.making import write_cache

from kdcache.store.cache import open_cache


class Handler(http.server.SimpleHTTPRequestHandler):
    """status: what every request is answered with; None for the file."""

    status: int | None = None

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        super().do_GET() if self.status is None else self.send_error(self.status)

    def do_HEAD(self) -> None:
        super().do_HEAD() if self.status is None else self.send_error(self.status)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL of a small cache."""
    write_cache(tmp_path / "cache")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/cache"
    server.shutdown()
    server.server_close()


def test_a_cache_is_read(served: str, tmp_path: Path, run: Run) -> None:
    expected = open_cache(tmp_path / "cache").read(0, 10)
    got = open_cache(served, local_cache_gb=0).read(0, 10)
    assert {name: array.tobytes() for name, array in got.arrays.items()} == {
        name: array.tobytes() for name, array in expected.arrays.items()
    }
    assert run("inspect", served)[0] == 0
    status, said = run("inspect", f"{served}/none")
    assert (status, "is not a cache" in said) == (2, True), said


@pytest.mark.parametrize(("status", "words"), [(503, "tried for 1 s"), (403, "access denied")])
def test_an_answer_that_is_an_error_is_no_missing_file(
    status: int, words: str, served: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsspec says that there is no such file."""
    monkeypatch.setenv("KDCACHE_RETRY_SECONDS", "1")
    monkeypatch.setattr(Handler, "status", status)
    for command in ("inspect", "verify"):
        found, said = run(command, served)
        assert (found, words in said, f"cannot read {served}/cache.json: " in said) == (1, True, True), said


@pytest.mark.parametrize("command", ["inspect", "verify", "convert", "dump-logits"])
def test_a_server_that_is_not_there_costs_one_bound(
    command: str, config: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """inspect asked four times for as long: each missing answer was taken for a missing file."""
    monkeypatch.setenv("KDCACHE_RETRY_SECONDS", "4")
    url = f"http://127.0.0.1:{free_port()}/x"
    arguments = {
        "convert": (url, tmp_path / "other", "--to", "arrow"),
        "dump-logits": (config, "-o", f"corpus.paths={url}/rows.jsonl", "-o", f"output={tmp_path / 'cache'}"),
    }.get(command, (url,))
    begin = time.monotonic()
    status, said = run(command, *arguments)
    assert (status, "tried for 4 s" in said) == (1, True), said
    assert time.monotonic() - begin < 7.5
