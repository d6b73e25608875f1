"""A stand-in for the Hugging Face Hub, in memory, for huggingface_hub's own client (HF_ENDPOINT).

It has what HfApi, HfFileSystem and datasets ask for: repositories of data sets, branches, commits, preupload, LFS in
its basic form, trees in pages, facts of paths, and files by range. No Xet. What it says in errors is what the Hub says
(X-Error-Code).
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["Answer", "HubServer"]

PAGE = 20
LARGE = (".zip", ".arrow", ".parquet")
Answer = tuple[int, dict[str, str], bytes]


class Refused(Exception):
    """args: an Answer."""


@dataclass
class Repo:
    """private; branches: name -> commit; commits: commit -> files; heads: commits in order."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        sha = hashlib.sha1(f"{len(self.heads)} {sorted(files)} {branch}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        self.heads.append(sha)
        return sha

    def files(self, revision: str) -> dict[str, bytes] | None:
        return self.commits.get(self.branches.get(revision, revision))

    def at(self, revision: str) -> dict[str, bytes]:
        """Its files. Raises Refused for an unknown revision."""
        files = self.files(revision)
        if files is None:
            raise Refused(404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
        return files


@dataclass
class HubServer:
    """One account, ann, whose token is `token`; another token is not known, and `reader` may not write.

    fault: (method, path) -> what becomes of the answer: a status, "flip", "half", "close", or None.
    wait: called with each request before it is answered. log: (method, path) of all. ranges: of which files parts were
    asked for.
    """

    token: str = "hf_abcdefghijklmnopqrstuvwxyz"
    reader: str = "hf_readerreaderreaderreader"
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    fault: Callable[[str, str], Any] | None = None
    wait: Callable[[str, str], object] | None = None
    log: list[tuple[str, str]] = field(default_factory=list)
    ranges: set[str] = field(default_factory=set)
    sent: int = 0
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}"

    def environment(self, home: Path) -> dict[str, str]:
        """What a process needs to take it for the Hub. home: for what huggingface_hub keeps."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(home / "hf"),
            "XDG_CACHE_HOME": str(home / "xdg"),
            "KDCACHE_RETRY_SECONDS": "5",
        }

    def commit_folder(self, repo: str, folder: Path) -> str:
        """A commit of this folder, which is what main has from now on."""
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.repos.setdefault(repo, Repo()).commit("main", files)

    def start(self) -> None:
        hub = self

        class Bound(Handler):
            pass

        Bound.hub = hub

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that went away is no news."""

        self._server = Server(("127.0.0.1", 0), Bound)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        found = self.repos[repo].files(revision)
        assert found is not None
        return found

    # What it answers

    def answer(self, method: str, path: str, query: dict[str, list[str]], headers: Any, body: bytes) -> Answer:
        for pattern, name in ROUTES:
            if found := re.fullmatch(pattern, f"{method} {path}"):
                try:
                    answer: Answer = getattr(self, name)(query, headers, body, **found.groupdict())
                except Refused as refused:
                    answer = refused.args  # type: ignore[assignment]
                return answer
        return 404, {}, b"no such route"

    def who(self, headers: Any) -> str | None:
        given = (headers.get("authorization") or "").removeprefix("Bearer ")
        return {self.token: "ann", self.reader: "reader"}.get(given, "nobody" if given else None)

    def seen(self, repo: str, headers: Any) -> Repo:
        """Raises Refused."""
        found, who = self.repos.get(repo), self.who(headers)
        if who == "nobody":
            raise Refused(401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b"{}")
        if found is None or (found.private and who != "ann"):
            status = 401 if who is None else 404
            raise Refused(status, {"X-Error-Code": "RepoNotFound"}, b'{"error":"Repository not found"}')
        return found

    def writable(self, repo: str, headers: Any) -> Repo:
        """Raises Refused."""
        found = self.seen(repo, headers)
        if self.who(headers) != "ann":
            raise Refused(403, {"X-Error-Message": "You don't have the required permissions"}, b"{}")
        return found

    def create(self, query: Any, headers: Any, body: bytes) -> Answer:
        asked = json.loads(body)
        if self.who(headers) != "ann":
            return 403 if self.who(headers) else 401, {"X-Error-Message": "You cannot create a repository"}, b"{}"
        name = f"{asked.get('organization') or 'ann'}/{asked['name']}"
        if name in self.repos:
            return 409, {}, b'{"error":"You already created this dataset repo"}'
        repo = self.repos[name] = Repo(private=asked.get("visibility") == "private" or bool(asked.get("private")))
        repo.commit("main", {".gitattributes": b"*.zip filter=lfs\n"})
        return of_json({"url": f"{self.url}/datasets/{name}"})

    def info(self, query: Any, headers: Any, body: bytes, repo: str, revision: str | None = None) -> Answer:
        found = self.seen(repo, headers)
        revision = unquote(revision or "main")
        files = found.at(revision)
        facts = {"id": repo, "sha": found.branches.get(revision, revision), "private": found.private, "tags": []}
        return of_json(
            {**facts, "downloads": 0, "likes": 0, "siblings": [{"rfilename": name} for name in sorted(files)]}
        )

    def paths(self, query: Any, headers: Any, body: bytes, repo: str, revision: str) -> Answer:
        found = self.seen(repo, headers)
        files = found.at(unquote(revision))
        asked = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
        return of_json([of_file(name, files[name]) for name in asked if name in files])

    def branch(self, query: Any, headers: Any, body: bytes, repo: str, name: str) -> Answer:
        found = self.writable(repo, headers)
        found.branches[unquote(name)] = found.branches["main"]
        return of_json({})

    def tree(
        self, query: dict[str, list[str]], headers: Any, body: bytes, repo: str, revision: str, path: str | None = None
    ) -> Answer:
        found = self.seen(repo, headers)
        files = found.at(unquote(revision))
        prefix = f"{unquote(path)}/" if path else ""
        entries: dict[str, dict[str, Any]] = {}
        for name, data in sorted(files.items()):
            if not name.startswith(prefix):
                continue
            parts = name[len(prefix) :].split("/")
            for depth in range(1, len(parts)):
                folder = prefix + "/".join(parts[:depth])
                if depth == 1 or query["recursive"] == ["true"]:
                    entries[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            if len(parts) == 1 or query["recursive"] == ["true"]:
                entries[name] = of_file(name, data)
        if prefix and not entries:
            return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        start = int(query.get("cursor", ["0"])[0])
        page = [*entries.values()][start : start + PAGE]
        more = {}
        if start + PAGE < len(entries):
            at = f"{self.url}/api/datasets/{repo}/tree/{revision}{f'/{path}' if path else ''}"
            more["Link"] = f'<{at}?recursive={query["recursive"][0]}&expand=false&cursor={start + PAGE}>; rel="next"'
        status, kind, data = of_json(page)
        return status, kind | more, data

    def preupload(self, query: Any, headers: Any, body: bytes, repo: str, revision: str) -> Answer:
        found = self.writable(repo, headers)
        files = found.at(unquote(revision))
        told = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": of_file(one["path"], files[one["path"]])["oid"] if one["path"] in files else None,
            }
            for one in json.loads(body)["files"]
        ]
        return of_json({"files": told})

    def batch(self, query: Any, headers: Any, body: bytes, repo: str) -> Answer:
        self.writable(repo, headers)
        objects = []
        for one in json.loads(body)["objects"]:
            told = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.objects:
                told["actions"] = {"upload": {"href": f"{self.url}/objects/{one['oid']}"}}
            objects.append(told)
        return of_json({"transfer": "basic", "objects": objects})

    def put(self, query: Any, headers: Any, body: bytes, oid: str) -> Answer:
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, {}, b"another sha256"
        self.objects[oid] = body
        self.sent += len(body)
        return 200, {}, b""

    def commit(self, query: Any, headers: Any, body: bytes, repo: str, revision: str) -> Answer:
        found = self.writable(repo, headers)
        revision, lines = unquote(revision), [json.loads(line) for line in body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if parent not in (None, found.branches[revision]):
            return 412, {"X-Error-Message": "A commit has happened since. Please refresh and try again."}, b"{}"
        files = dict(found.files(revision) or {})
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile" and files.pop(value["path"], None) is None:
                return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        sha = found.commit(revision, files)
        return of_json({"commitUrl": f"{self.url}/datasets/{repo}/commit/{sha}", "commitOid": sha})

    def resolve(self, query: Any, headers: Any, body: bytes, repo: str, revision: str, path: str) -> Answer:
        found = self.seen(repo, headers)
        files = found.at(unquote(revision))
        data = files.get(unquote(path))
        if data is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        if path.endswith(LARGE):
            return 302, {"Location": f"/cdn/{repo}/{found.branches.get(revision, revision)}/{path}"}, b""
        status, told, part = ranged(data, headers)
        if status == 206:
            self.ranges.add(path)
        facts = {"ETag": f'"{of_file(path, data)["oid"]}"', "X-Repo-Commit": found.branches.get(revision, revision)}
        return status, {**told, **facts, "Accept-Ranges": "bytes"}, part

    def cdn(self, query: Any, headers: Any, body: bytes, repo: str, revision: str, path: str) -> Answer:
        """Where large files lie; whoever was sent there may read them."""
        return ranged((self.repos[repo].files(revision) or {})[unquote(path)], headers)

    def validate(self, query: Any, headers: Any, body: bytes) -> Answer:
        return of_json({"errors": [], "warnings": []})


REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
ROUTES = (
    (r"POST /api/repos/create", "create"),
    (r"POST /api/validate-yaml", "validate"),
    (rf"GET /api/datasets/{REPO}", "info"),
    (rf"GET /api/datasets/{REPO}/revision/(?P<revision>[^/]+)", "info"),
    (rf"POST /api/datasets/{REPO}/branch/(?P<name>[^/]+)", "branch"),
    (rf"GET /api/datasets/{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>[^/]+))?", "tree"),
    (rf"POST /api/datasets/{REPO}/paths-info/(?P<revision>[^/]+)", "paths"),
    (rf"POST /api/datasets/{REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
    (rf"POST /datasets/{REPO}\.git/info/lfs/objects/batch", "batch"),
    (r"PUT /objects/(?P<oid>\w+)", "put"),
    (rf"POST /api/datasets/{REPO}/commit/(?P<revision>[^/]+)", "commit"),
    (rf"GET /cdn/{REPO}/(?P<revision>[^/]+)/(?P<path>.+)", "cdn"),
    (rf"GET /datasets/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
)


def ranged(data: bytes, headers: Any) -> Answer:
    """The bytes that are asked for."""
    if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range") or ""):
        first, last = int(asked[1]), int(asked[2] or len(data) - 1)
        if first >= len(data):
            return 416, {}, b""
        part = data[first : last + 1]
        return 206, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"}, part
    return 200, {}, data


def of_json(values: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(values).encode()


def of_file(name: str, data: bytes) -> dict[str, Any]:
    """How a tree names a file: git's digest of it, of a large one its pointer's and its sha256 besides."""
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data)}
    if name.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        data = f"version https://git-lfs.github.com/spec/v1\noid sha256:{entry['lfs']['oid']}\n".encode()
    return entry | {"oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_: Any) -> None:
        pass

    def do(self) -> None:
        asked = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding"):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.hub.log.append((self.command, asked.path))
        if self.hub.wait:
            self.hub.wait(self.command, asked.path)
        fault = self.hub.fault(self.command, asked.path) if self.hub.fault else None
        if fault == "close":
            self.close_connection = True
            return
        if isinstance(fault, int):
            status, headers, data = fault, {"X-Error-Message": "no"}, b"{}"
        else:
            method = "GET" if self.command == "HEAD" else self.command
            status, headers, data = self.hub.answer(method, asked.path, parse_qs(asked.query), self.headers, body)
        if fault == "flip" and data:
            at = len(data) // 2
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if fault == "half" else data)
        if fault == "half":
            self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = do
