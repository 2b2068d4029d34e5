"""A Hub of our own on the loopback interface, for the real huggingface_hub to talk to, and faults to be made on demand.

Large files are sent on, as the Hub does, to a storage of another name by links that expire.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

from gguflike.checkpoint import elsewhere
from gguflike.checkpoint.hub import remote, retry

LARGE = (".safetensors", ".gguf", ".bin")
Answer = Callable[["Handler", bytes], None]


@dataclass
class Repo:
    """A repository: files by commit, commits by branch. ``token``: who has it may read it; ``gated``: nobody may."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        digest = hashlib.sha1(repr(sorted((k, hashlib.sha1(v).hexdigest()) for k, v in files.items())).encode())
        sha = digest.hexdigest()
        self.commits[sha] = dict(files)
        self.refs[branch] = sha
        return sha

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        sha = self.refs.get(revision, revision)
        return (sha, self.commits[sha]) if sha in self.commits else None


@dataclass
class Fault:
    """What is done instead of the answer to requests whose path matches, ``times`` times after ``after`` of them."""

    path: re.Pattern[str]
    do: Answer
    times: int
    after: int
    method: str


class Hub:
    """The server: what it has, what it was asked for, what it does wrong."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.storage: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}  # plain ones, by path
        self.log: list[tuple[str, str, str | None, str | None]] = []  # method, path, range, authorization
        self.faults: list[Fault] = []
        self.links = 0  # number of the link that is good now: older ones have expired
        self.etags: dict[str, str] = {}
        self.commits: list[dict[str, Any]] = []
        self.waits: list[float] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.storage_url = f"http://localhost:{self.port}"

    def repo(self, name: str, files: dict[str, bytes], **options: Any) -> str:
        """Make a repository, and say its commit."""
        repo = self.repos[name] = Repo(**options)
        return repo.commit(files)

    def fault(self, path: str, do: Answer, times: int = 1, after: int = 0, method: str = "GET") -> None:
        self.faults.append(Fault(re.compile(path), do, times, after, method))

    def asked(self, path: str, method: str = "GET") -> list[str | None]:
        """The ranges of the requests whose path matches."""
        return [entry[2] for entry in self.log if entry[0] == method and re.search(path, entry[1])]


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()


@contextmanager
def in_use(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Hub]:
    """The server as huggingface_hub's one, with caches in ``folder``, as a new process without a token finds it. Nobody
    waits between requests; ``waits`` are the seconds that it would have been."""
    with running() as hub:
        monkeypatch.setattr(retry, "wait", lambda seconds, _: hub.waits.append(seconds))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(folder / "hub"),
            "HF_TOKEN_PATH": str(folder / "token"),
            "HF_HUB_DOWNLOAD_TIMEOUT": 2,
            "HF_HUB_DISABLE_XET": True,  # the older protocol, which this server speaks
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(remote, "_files", {})
        monkeypatch.setattr(elsewhere, "_names", {})
        yield hub


# Faults


def cut(count: int) -> Answer:
    """The connection ends after so many bytes of the body."""

    def answer(handler: Handler, body: bytes) -> None:
        handler.range_headers(body)
        handler.wfile.write(handler.part(body)[:count])
        handler.wfile.flush()
        handler.close_connection = True
        handler.connection.close()

    return answer


def status(code: int, **headers: str) -> Answer:
    """Another status, with an empty body."""

    def answer(handler: Handler, body: bytes) -> None:
        handler.reply(code, b"", {key.replace("_", "-"): value for key, value in headers.items()})

    return answer


def stall(seconds: float) -> Answer:
    """Half of what was asked for, then nothing for a while."""

    def answer(handler: Handler, body: bytes) -> None:
        handler.range_headers(body)
        part = handler.part(body)
        handler.wfile.write(part[: len(part) // 2])
        handler.wfile.flush()
        time.sleep(seconds)
        handler.close_connection = True

    return answer


def whole(handler: Handler, body: bytes) -> None:
    """The whole file, whatever part was asked for."""
    handler.reply(200, body, {})


def longer(handler: Handler, body: bytes) -> None:
    """A file that has grown."""
    handler.reply(206, handler.part(body), {"Content-Range": f"{handler.range_of(body)[2]}7"})


def shifted(handler: Handler, body: bytes) -> None:
    """Other bytes than asked for."""
    start, stop, _ = handler.range_of(body)
    handler.reply(206, body[start : stop - 1], {"Content-Range": f"bytes {start + 1}-{stop - 1}/{len(body)}"})


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):  # whoever asked is gone
            super().handle()

    def do_GET(self) -> None:
        self.serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def serve(self) -> None:
        hub, self.query = self.hub, parse_qs(urlsplit(self.path).query)
        path = unquote(urlsplit(self.path).path)
        with hub.lock:
            hub.log.append((self.command, path, self.headers.get("Range"), self.headers.get("Authorization")))
            fault = next((each for each in hub.faults if self.command == each.method and each.path.search(path)), None)
            if fault is not None and fault.after:
                fault.after, fault = fault.after - 1, None
            elif fault is not None:
                fault.times -= 1
                if not fault.times:
                    hub.faults.remove(fault)
        self.sent = self.received()
        body = hub.storage.get(path.rpartition("/")[2], hub.files.get(path, b""))
        try:
            if fault is not None:
                fault.do(self, body)
            else:
                self.route(path)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def received(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def route(self, path: str) -> None:
        routes: list[tuple[str, Callable[..., None]]] = [
            (r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self.info),
            (r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self.preupload),
            (r"/api/models/([^/]+/[^/]+)/commit/(.+)", self.commit),
            (r"/api/models/([^/]+/[^/]+)/branch/(.+)", self.branch),
            (r"/api/repos/create", self.create),
            (r"/api/validate-yaml", lambda: self.json({"errors": [], "warnings": []})),
            (r"/api/whoami-v2", lambda: self.json({"name": "somebody", "type": "user", "orgs": []})),
            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
            (r"/storage/(\w+)", self.stored),
            (r"/upload/(\w+)", self.upload),
        ]
        for pattern, answer in routes:
            match = re.fullmatch(pattern, path)
            if match:
                return answer(*match.groups())
        if path in self.hub.files:
            body = self.hub.files[path]
            return self.ranged(body, {"ETag": self.hub.etags.get(path, f'"{hashlib.md5(body).hexdigest()}"')})
        return self.reply(404, b"not here", {})

    def reply(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, document: Any) -> None:
        self.reply(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def refuse(self, code: int, why: str) -> None:
        self.reply(code, b'{"error": "no"}', {"X-Error-Code": why, "Content-Type": "application/json"})

    # Reading

    def allowed(self, name: str) -> Repo | None:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.token and self.headers.get("Authorization") != f"Bearer {repo.token}"):
            self.refuse(401, "RepoNotFound")
            return None
        return repo

    def info(self, name: str, revision: str | None) -> None:
        repo = self.allowed(name)
        if repo is None:
            return None
        found = repo.files(revision or "main")
        if found is None:
            return self.refuse(404, "RevisionNotFound")
        siblings = []
        for file, body in found[1].items():
            entry: dict[str, Any] = {"rfilename": file, "size": len(body), "blobId": blob(body)}
            if file.endswith(LARGE):
                entry["lfs"] = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest(), "pointerSize": 134}
            siblings.append(entry)
        self.json({"id": name, "modelId": name, "sha": found[0], "siblings": siblings, "tags": [], "private": False})
        return None

    def resolve(self, name: str, revision: str, file: str) -> None:
        repo = self.allowed(name)
        if repo is None:
            return None
        if repo.gated:
            return self.refuse(403, "GatedRepo")
        found = repo.files(revision)
        if found is None:
            return self.refuse(404, "RevisionNotFound")
        if file not in found[1]:
            return self.refuse(404, "EntryNotFound")
        body = found[1][file]
        if not file.endswith(LARGE):
            return self.ranged(body, {"ETag": f'"{blob(body)}"', "X-Repo-Commit": found[0]})
        sha = hashlib.sha256(body).hexdigest()
        self.hub.storage.setdefault(sha, body)
        return self.reply(
            302,
            b"",
            {
                "Location": f"{self.hub.storage_url}/storage/{sha}?link={self.hub.links}",
                "X-Linked-Etag": f'"{self.hub.etags.get(file, sha)}"',
                "X-Linked-Size": str(len(body)),
                "X-Repo-Commit": found[0],
            },
        )

    def stored(self, sha: str) -> None:
        if int(self.query["link"][0]) < self.hub.links:
            return self.reply(403, b"expired", {})
        return self.ranged(self.hub.storage[sha], {"ETag": '"of-the-storage"'})

    def range_of(self, body: bytes) -> tuple[int, int, str]:
        """First byte, the one behind the last, and the header that says so."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "bytes=0-")
        assert match is not None
        start, stop = int(match[1]), min(int(match[2] or len(body) - 1) + 1, len(body))
        return start, stop, f"bytes {start}-{stop - 1}/{len(body)}"

    def part(self, body: bytes) -> bytes:
        start, stop, _ = self.range_of(body)
        return body[start:stop]

    def range_headers(self, body: bytes) -> None:
        self.send_response(206)
        self.send_header("Content-Range", self.range_of(body)[2])
        self.send_header("Content-Length", str(len(self.part(body))))
        self.end_headers()

    def ranged(self, body: bytes, headers: dict[str, str]) -> None:
        if "Range" not in self.headers:
            return self.reply(200, body, headers)
        start, _, said = self.range_of(body)
        if start >= len(body):
            return self.reply(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        return self.reply(206, self.part(body), headers | {"Content-Range": said})

    # Writing

    def create(self) -> None:
        asked = json.loads(self.sent)
        name = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
        if name in self.hub.repos:
            body = json.dumps({"url": f"{self.hub.url}/{name}", "error": "exists"}).encode()
            return self.reply(409, body, {"Content-Type": "application/json"})
        self.hub.repo(name, {".gitattributes": b""})
        self.hub.commits.append(
            {"created": name, "private": asked.get("private") or asked.get("visibility") == "private"}
        )
        return self.json({"url": f"{self.hub.url}/{name}", "id": name, "name": name})

    def branch(self, name: str, branch: str) -> None:
        repo = self.hub.repos[name]
        if branch in repo.refs:
            return self.reply(409, b"{}", {"Content-Type": "application/json"})
        repo.refs[branch] = repo.refs["main"]
        return self.json({})

    def preupload(self, name: str, revision: str) -> None:
        if self.hub.repos[name].files(revision) is None:
            return self.refuse(404, "RevisionNotFound")
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.sent)["files"]
        ]
        return self.json({"files": files})

    def batch(self, _: str) -> None:
        objects = [
            {"oid": each["oid"], "size": each["size"]}
            | (
                {}
                if each["oid"] in self.hub.storage
                else {"actions": {"upload": {"href": f"{self.hub.url}/upload/{each['oid']}", "header": {}}}}
            )
            for each in json.loads(self.sent)["objects"]
        ]
        self.json({"transfer": "basic", "objects": objects})

    def upload(self, sha: str) -> None:
        if hashlib.sha256(self.sent).hexdigest() != sha:
            return self.reply(400, b"another digest", {})
        self.hub.storage[sha] = self.sent
        return self.reply(200, b"", {})

    def commit(self, name: str, revision: str) -> None:
        repo = self.hub.repos[name]
        found = repo.files(revision)
        assert found is not None
        files = dict(found[1])
        lines = [json.loads(line) for line in self.sent.decode().splitlines()]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.storage[value["oid"]]
        sha = repo.commit(files, revision)
        self.hub.commits.append({"repo": name, "revision": revision, "summary": lines[0]["value"]["summary"]})
        self.json({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha, "success": True})


def blob(body: bytes) -> str:
    """git's name of a file's contents."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
