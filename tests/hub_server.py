"""A Hub on loopback: repositories in memory, served over HTTP to the real clients, and failing when told to.

    with HubServer() as hub:
        hub.fail("POST", "/commit/", status=500)   # the next commit fails, the one after it does not
        ...                                         # clients with HF_ENDPOINT=hub.url, HF_TOKEN=hub.token
        hub.files("model", "me/captioner")["README.md"]

Paths and payloads are those that huggingface_hub 2.4 sends and expects. Large files go through Git LFS: the clients
need HF_HUB_DISABLE_XET=1, since Xet speaks to a storage service of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


Files = dict[str, bytes]
LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".pt", ".png", ".arrow", ".model")
PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}


@dataclass
class Repo:
    """A repository: branches that name commits, commits that are whole trees."""

    private: bool = False
    sdk: str | None = None
    commits: dict[str, Files] = field(default_factory=lambda: {"0" * 40: {}})
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    messages: list[str] = field(default_factory=list)

    def oid(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    """How the next `times` requests that match fail: with `status`, or, where that is `None`, cut in the middle."""

    method: str
    path: str
    status: int | None
    times: int
    error: str
    headers: dict[str, str]


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, error: str, code: str | None = None) -> None:
        super().__init__(error)
        self.status, self.error = status, error
        self.headers = {"X-Error-Message": error} | ({"X-Error-Code": code} if code else {})


class HubServer(ThreadingHTTPServer):
    """The server; `repos`, `requests` and `faults` are there to be looked at and set.

    Args:
        user (`str`): Whom the token belongs to, and the only namespace that it may write to.
        token (`str`): The only valid token.
    """

    daemon_threads = True

    def __init__(self, user: str = "me", token: str = "hf_loopbackloopbackloopbackloopback") -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.user, self.token = user, token
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def fail(
        self, method: str, path: str, status: int | None = None, times: int = 1, error: str = "failed", **headers: str
    ) -> None:
        """Let the next requests of that method whose path the pattern is found in fail; no status: cut the line."""
        self.faults.append(Fault(method, path, status, times, error, headers))

    def files(self, kind: str, repo_id: str, revision: str = "main") -> Files:
        """The files of a repository, LFS contents in place."""
        repo = self.repos[kind, repo_id]
        return repo.commits[repo.branches[revision]]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Lines that were cut are no news."""


class HubHandler(BaseHTTPRequestHandler):
    """One request."""

    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.route, self.query = unquote(url.path), parse_qs(url.query)
        fault = self._fault()
        if fault is not None and fault.status is None:
            return self._cut()
        try:
            self.body = self._read(int(self.headers.get("Content-Length") or 0))
            if fault is not None and fault.status is not None:
                failed = Refusal(fault.status, fault.error)
                failed.headers |= fault.headers
                raise failed
            for method, pattern, action in ROUTES:
                found = re.fullmatch(pattern, self.route)
                if found and self.command in method.split():
                    return action(self, **found.groupdict())
            raise Refusal(404, f"no route {self.command} {self.route}")
        except Refusal as refused:
            self._send(json.dumps({"error": refused.error}).encode(), refused.status, refused.headers)

    def _fault(self) -> Fault | None:
        with self.server.lock:
            for fault in self.server.faults:
                if fault.times and fault.method == self.command and re.search(fault.path, self.route):
                    fault.times -= 1
                    return fault
        return None

    def _cut(self) -> None:
        """Take half of what comes, or give half of what should, and hang up."""
        size = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(size // 2)
        if self.command == "GET":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nonly this")
            self.wfile.flush()
        self.server.requests.append((self.command, self.route, 0))
        self.close_connection = True
        self.connection.close()

    def _read(self, size: int) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(size)
        parts = []
        while length := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.server.requests.append((self.command, self.route, status))
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: Any, status: int = 200) -> None:
        self._send(json.dumps(content).encode(), status)

    # Who may do what

    def _authorize(self, namespace: str) -> None:
        given = self.headers.get("Authorization")
        if given != f"Bearer {self.server.token}":
            raise Refusal(401, "Invalid username or password.")
        if namespace != self.server.user:
            raise Refusal(403, f"You don't have the rights to write to {namespace}.")

    def _repo(self, kind: str, repo_id: str) -> Repo:
        repo = self.server.repos.get((kind, repo_id))
        known = self.headers.get("Authorization") == f"Bearer {self.server.token}"
        if repo is None or (repo.private and not known):
            raise Refusal(404 if known else 401, "Repository not found", "RepoNotFound")
        return repo

    def _tree(self, kind: str, repo_id: str, revision: str) -> tuple[str, Files]:
        repo = self._repo(kind, repo_id)
        oid = repo.oid(revision)
        if oid is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, repo.commits[oid]

    # Account and repositories

    def whoami(self) -> None:
        self._authorize(self.server.user)
        self._json({"type": "user", "name": self.server.user, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create(self) -> None:
        wanted = json.loads(self.body)
        namespace, kind = wanted.get("organization") or self.server.user, wanted.get("type") or "model"
        self._authorize(namespace)
        repo_id = f"{namespace}/{wanted['name']}"
        url = f"{self.server.url}/{PREFIXES[kind]}{repo_id}"
        with self.server.lock:
            if (kind, repo_id) in self.server.repos:
                return self._json({"error": "You already created this repo", "url": url}, 409)
            private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            self.server.repos[kind, repo_id] = Repo(private, wanted.get("sdk"))
        self._json({"url": url, "name": repo_id})

    def info(self, kind: str, repo_id: str, revision: str = "main") -> None:
        oid, files = self._tree(kind, repo_id, revision)
        repo = self.server.repos[kind, repo_id]
        siblings = [{"rfilename": path} for path in files]
        told = {"id": repo_id, "sha": oid, "private": repo.private, "siblings": siblings, "tags": [], "downloads": 0}
        self._json({**told, "likes": 0, "sdk": repo.sdk, "cardData": {}, "lastModified": "2025-01-01T00:00:00.000Z"})

    def refs(self, kind: str, repo_id: str) -> None:
        branches = self._repo(kind, repo_id).branches
        told = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in branches.items()]
        self._json({"branches": told, "converts": [], "tags": []})

    def branch(self, kind: str, repo_id: str, revision: str) -> None:
        self._authorize(repo_id.split("/")[0])
        repo = self._repo(kind, repo_id)
        if revision in repo.branches:
            raise Refusal(409, "Reference already exists")
        repo.branches[revision] = repo.branches["main"]
        self._json({})

    # Reading

    def tree(self, kind: str, repo_id: str, revision: str, path: str | None = None) -> None:
        _, files = self._tree(kind, repo_id, revision)
        below = f"{path.strip('/')}/" if path else ""
        found = {name: content for name, content in files.items() if name.startswith(below)}
        if path and not found:
            raise Refusal(404, f"{path} does not exist", "EntryNotFound")
        if self.query.get("recursive", ["false"])[0].lower() != "true":
            folders = {below + name[len(below) :].split("/")[0] for name in found if "/" in name[len(below) :]}
            found = {name: content for name, content in found.items() if "/" not in name[len(below) :]}
        else:
            folders = {"/".join(name.split("/")[:i]) for name in found for i in range(1, name.count("/") + 1)}
            folders = {folder for folder in folders if folder.startswith(below)}
        entries = [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in sorted(folders)]
        self._json(entries + [entry(name, content) for name, content in found.items()])

    def paths_info(self, kind: str, repo_id: str, revision: str) -> None:
        _, files = self._tree(kind, repo_id, revision)
        paths = json.loads(self.body)["paths"] if self.body[:1] == b"{" else parse_qs(self.body.decode())["paths"]
        told = [entry(path, files[path]) for path in paths if path in files]
        folders = [path for path in paths if any(name.startswith(f"{path}/") for name in files)]
        self._json(told + [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders])

    def resolve(self, repo_id: str, revision: str, path: str, prefix: str | None = None) -> None:
        kind = {"datasets/": "dataset", "spaces/": "space"}.get(prefix or "", "model")
        oid, files = self._tree(kind, repo_id, revision)
        if path not in files:
            refused = Refusal(404, "Entry not found", "EntryNotFound")
            refused.headers["X-Repo-Commit"] = oid
            raise refused
        content = files[path]
        headers = {"X-Repo-Commit": oid, "ETag": f'"{etag(path, content)}"', "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            return self._send(content, 200, headers)
        start, end = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self._send(content[start : end + 1], 206, headers)

    # Writing

    def validate_yaml(self) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, kind: str, repo_id: str, revision: str) -> None:
        self._authorize(repo_id.split("/")[0])
        _, files = self._tree(kind, repo_id, revision)
        told = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            known = {"oid": etag(path, files[path])} if path in files else {}
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            told.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
        self._json({"files": told})

    def lfs_batch(self, repo_id: str, prefix: str | None = None) -> None:
        self._authorize(repo_id.split("/")[0])
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            told = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.server.objects:
                upload = {"href": f"{self.server.url}/lfs/{wanted['oid']}", "header": {}}
                verify = {"href": f"{self.server.url}/{prefix or ''}{repo_id}.git/info/lfs/verify", "header": {}}
                told["actions"] = {"upload": upload, "verify": verify}
            objects.append(told)
        self._json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "the content has another hash")
        self.server.objects[oid] = self.body
        self._send(b"")

    def lfs_verify(self, repo_id: str, prefix: str | None = None) -> None:
        wanted = json.loads(self.body)
        if len(self.server.objects.get(wanted["oid"], b"")) != wanted["size"]:
            raise Refusal(404, "the object did not arrive")
        self._json({})

    def commit(self, kind: str, repo_id: str, revision: str) -> None:
        self._authorize(repo_id.split("/")[0])
        parent, files = self._tree(kind, repo_id, revision)
        tree = dict(files)
        message = ""
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, parent):
                    raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            elif line["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server.objects:
                    raise Refusal(400, f"LFS pointer of {value['path']} points to an object that does not exist")
                tree[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                tree.pop(value["path"])
            else:
                below = value["path"].rstrip("/") + "/"
                tree = {path: content for path, content in tree.items() if not path.startswith(below)}
        repo = self.server.repos[kind, repo_id]
        with self.server.lock:
            oid = hashlib.sha1(f"{parent}{message}{len(repo.commits)}".encode()).hexdigest()
            repo.commits[oid] = tree
            repo.branches[revision] = oid
            repo.messages.append(message)
        url = f"{self.server.url}/{PREFIXES[kind]}{repo_id}/commit/{oid}"
        self._json({"success": True, "commitOid": oid, "commitUrl": url})


def etag(path: str, content: bytes) -> str:
    """What the Hub names a content by: sha256 under LFS, else git's blob hash."""
    if path.endswith(LFS_SUFFIXES):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(path: str, content: bytes) -> dict[str, Any]:
    """A file as listings tell it."""
    told = {"type": "file", "path": path, "oid": etag(path, content), "size": len(content)}
    if path.endswith(LFS_SUFFIXES):
        told["lfs"] = {"oid": etag(path, content), "size": len(content), "pointerSize": 134}
    return told


def _api(action: Callable) -> Callable:
    def answered(handler: HubHandler, kinds: str, **parts: str) -> None:
        action(handler, kinds.removesuffix("s"), **parts)

    return answered


_REPO = r"/api/(?P<kinds>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)"
_GIT = r"/(?P<prefix>datasets/|spaces/)?(?P<repo_id>[^/]+/[^/]+)"
ROUTES: list[tuple[str, str, Callable]] = [
    ("GET", "/api/whoami-v2", HubHandler.whoami),
    ("POST", "/api/repos/create", HubHandler.create),
    ("POST", "/api/validate-yaml", HubHandler.validate_yaml),
    ("GET", _REPO, _api(HubHandler.info)),
    ("GET", rf"{_REPO}/revision/(?P<revision>[^/]+)", _api(HubHandler.info)),
    ("GET", rf"{_REPO}/refs", _api(HubHandler.refs)),
    ("POST", rf"{_REPO}/branch/(?P<revision>[^/]+)", _api(HubHandler.branch)),
    ("GET", rf"{_REPO}/tree/(?P<revision>[^/]+)(?P<path>/.*)?", _api(HubHandler.tree)),
    ("POST", rf"{_REPO}/paths-info/(?P<revision>[^/]+)", _api(HubHandler.paths_info)),
    ("POST", rf"{_REPO}/preupload/(?P<revision>[^/]+)", _api(HubHandler.preupload)),
    ("POST", rf"{_REPO}/commit/(?P<revision>[^/]+)", _api(HubHandler.commit)),
    ("POST", rf"{_GIT}\.git/info/lfs/objects/batch", HubHandler.lfs_batch),
    ("POST", rf"{_GIT}\.git/info/lfs/verify", HubHandler.lfs_verify),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", HubHandler.lfs_put),
    ("GET HEAD", rf"{_GIT}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", HubHandler.resolve),
]
