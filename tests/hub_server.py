"""A small stand-in for the Hugging Face hub: one public dataset, served from a folder for each revision.

It answers what huggingface_hub and datasets ask of a public dataset: facts of a revision, listings, facts of paths, and
files, also ranges of them. Of the real hub nothing else is tried here: no login, no gate, no redirect to a file store.
"""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["NAME", "Hub"]

NAME = "owner/name"


class Hub:
    """A server.

    Attributes:
        revisions: Branch or commit -> (commit, folder); may change while it runs.
        ranges: The files of which ranges were asked for.
    """

    def __init__(self) -> None:
        self.revisions: dict[str, tuple[str, Path]] = {}
        self.ranges: set[str] = set()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def environment(self, home: Path) -> dict[str, str]:
        """What a process needs to take it for the hub."""
        address = f"http://127.0.0.1:{self._server.server_port}"
        return {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home), "KDCACHE_RETRY_SECONDS": "3"}

    def commit(self, branch: str, folder: Path) -> str:
        """A commit of this folder, which the branch is at from now on."""
        sha = hashlib.sha1(str(folder).encode()).hexdigest()
        self.revisions |= {branch: (sha, folder), sha: (sha, folder)}
        return sha

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *words: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        if asked := re.fullmatch(rf"/datasets/{NAME}/resolve/([^/]+)/(.*)", path):
            self._file(*asked.groups())
        elif asked := re.fullmatch(rf"/api/datasets/{NAME}(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?", path):
            kind, revision, rest = asked.groups()
            if (revision or "main") not in self.hub.revisions:
                return self._refused("Invalid rev id", "RevisionNotFound")
            sha, folder = self.hub.revisions[revision or "main"]
            if kind == "tree":
                self._tree(folder, rest or "", query.get("recursive", ["false"])[0].lower() == "true")
            elif kind == "paths-info":
                names = parse_qs(body.decode())["paths"] if body[:1] != b"{" else json.loads(body)["paths"]
                self._json([_entry(folder, folder / name) for name in names if (folder / name).exists()])
            else:
                files = [{"rfilename": str(p.relative_to(folder))} for p in sorted(folder.rglob("*")) if p.is_file()]
                facts = {"id": NAME, "sha": sha, "private": False, "gated": False, "disabled": False, "tags": []}
                self._json({**facts, "downloads": 0, "likes": 0, "siblings": files})
        else:
            self._refused("Repository not found", "RepoNotFound")

    def _tree(self, folder: Path, below: str, recursive: bool) -> None:
        if not (folder / below).is_dir():
            return self._refused("Not there", "EntryNotFound")
        found = sorted((folder / below).rglob("*") if recursive else (folder / below).iterdir())
        self._json([_entry(folder, path) for path in found])

    def _file(self, revision: str, name: str) -> None:
        sha, folder = self.hub.revisions.get(revision, ("", Path("/nowhere")))
        if not (folder / name).is_file():
            return self._refused("Entry not found", "EntryNotFound")
        data = (folder / name).read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        if (range_ := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))) is None:
            return self._send(data, 200, headers)
        self.hub.ranges.add(name)
        first, last = int(range_[1]), min(int(range_[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._send(data[first : last + 1], 206, headers)

    def _json(self, found: Any) -> None:
        self._send(json.dumps(found).encode(), 200, {"Content-Type": "application/json"})

    def _refused(self, words: str, code: str) -> None:
        headers = {"Content-Type": "application/json", "X-Error-Code": code}
        self._send(json.dumps({"error": words}).encode(), 404, headers)

    def _send(self, body: bytes, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    """What a listing says of a file or a folder."""
    name = str(path.relative_to(folder))
    if path.is_dir():
        return {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
    data = path.read_bytes()
    return {"type": "file", "oid": hashlib.sha1(data).hexdigest(), "size": len(data), "path": name}
