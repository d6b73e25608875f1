"""A real S3 server, moto's, as a process of its own, and in front of it a proxy that does what networks do."""

import contextlib
import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["FAULTS", "Proxy", "Run", "Store", "moto_server"]

Run = Callable[..., tuple[int, str]]
"""A command of kdcache with its arguments -> exit status, and all that it said."""

FAULTS = ("500", "503", "truncate", "flip", "close")
"""What the proxy can do to an answer. "flip" takes the checksum away that botocore reads. "hang" is one more, which
costs a timeout of 15 s each."""


ERRORS = {"500": "InternalError", "503": "SlowDown", "403": "AccessDenied", "501": "NotImplemented"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def moto_server() -> Iterator[int]:
    """The port of a server that lives as long as the block. Its own process: its warnings are none of ours.

    A page of a listing has 20 names, where Amazon's has 1,000.
    """
    port = free_port()
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    env = {**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": "20"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: "Proxy"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        length = self.headers.get("Content-Length")
        body = self._chunks() if length is None and self.headers.get("Transfer-Encoding") else None
        body = self.rfile.read(int(length or 0)) if body is None else body
        self.proxy.conditional = "If-None-Match" in self.headers
        fault = self.proxy.choose(self.command, self.path)
        if fault == "hang":
            time.sleep(40)
        if fault in ("hang", "close"):
            self.close_connection = True
            return
        if fault in ERRORS:
            code = ERRORS[fault]
            return self._send(int(fault), [], f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())
        upstream = http.client.HTTPConnection("127.0.0.1", self.proxy.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
        upstream.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
        response = upstream.getresponse()
        data = response.read()
        upstream.close()
        if fault == "flip" and data and response.status < 300:
            at = len(data) // 2
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        answered = response.getheaders()
        if fault == "flip":
            answered = [(name, value) for name, value in answered if "checksum" not in name.lower()]
        self._send(response.status, answered, data, half=fault == "truncate")

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

    def _chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return data

    def _send(self, status: int, headers: list[tuple[str, str]], data: bytes, *, half: bool = False) -> None:
        dropped = {"connection", "transfer-encoding", "date", "server"} | (
            set() if self.command == "HEAD" else {"content-length"}
        )
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in dropped:
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data[: len(data) // 2] if half else data)
        if half:
            self.wfile.flush()
            self.close_connection = True


@dataclass
class Proxy:
    """Forwards to the server. `fault`: (method, path) -> what to do to this answer, None for nothing.

    counts: of requests, by (method, fault). log: (method, path) of all of them. conditional: whether the last one asked
    for its file not to be there.
    """

    upstream: int
    port: int = field(default_factory=free_port)
    fault: Callable[[str, str], str | None] | None = None
    counts: "Counter[tuple[str, str]]" = field(default_factory=Counter)
    log: list[tuple[str, str]] = field(default_factory=list)
    conditional: bool = False
    _timer: threading.Timer | None = None
    _server: ThreadingHTTPServer | None = None
    _connections: "weakref.WeakSet[Any]" = field(default_factory=weakref.WeakSet)

    def choose(self, method: str, path: str) -> str | None:
        found = self.fault(method, path) if self.fault else None
        self.counts[method, found or ""] += 1
        self.log.append((method, path))
        return found

    def start(self) -> None:
        class Bound(Handler):
            proxy = self

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: Any) -> None:
                """A client that went away is no news."""

            def process_request(self, request: Any, address: Any) -> None:
                connections.add(request)
                super().process_request(request, address)

        self._connections.clear()
        connections = self._connections

        self._server = Server(("127.0.0.1", self.port), Bound)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """No answer, no connection, until `start`."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
            for connection in [*self._connections]:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def gone(self, seconds: float) -> None:
        """Stop now, and start again after so many seconds."""
        self.stop()
        self._timer = threading.Timer(seconds, self.start)
        self._timer.start()

    def back(self) -> None:
        """Wait until the server that is gone is here again."""
        if self._timer is not None:
            self._timer.join()

    def reset(self) -> None:
        self.back()
        self.fault = None
        self.counts.clear()
        self.log.clear()


@dataclass(frozen=True)
class Store:
    """A bucket on the server, seen through the proxy. env: what a command needs to reach it."""

    proxy: Proxy
    bucket: str
    env: dict[str, str]
    client: Any

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}"

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return data

    def files(self, prefix: str = "") -> dict[str, bytes]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {key.removeprefix(prefix): self.get(key) for key in keys}

    def buckets(self) -> list[str]:
        return [bucket["Name"] for bucket in self.client.list_buckets()["Buckets"]]


def only(text: str) -> str:
    """The one line that a command says of an error; fails where it said a traceback, or more than one."""
    assert "Traceback" not in text, text
    lines = [line for line in text.splitlines() if re.match(r"kdcache: ", line)]
    assert len(lines) == 1, text
    return lines[0]


def environment(port: int) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FSSPEC_"))},
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
