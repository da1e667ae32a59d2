"""A Hub to test against: a small server on loopback that speaks what huggingface_hub 2.4 asks of the real one.

A test double, written from the client's requests. It covers repositories of models, data sets and Spaces, LFS uploads and downloads
(with a redirect to another host name, as to a CDN), atomic commits, branches, tags, pull requests, private repositories, and search
by tag. It does not cover Xet, quotas, gated repositories, organisations' roles, pagination, or the real Hub's checks of cards: it
only demands metadata that is a mapping. Everything is kept in memory.

    python tests/hub/server.py            # prints its address, serves until killed

`/_control` belongs to the tests: requests so far, faults to inject, and a client to kill at a request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

#: Who a token belongs to, and which organisations they may write to.
TOKENS = {"hf_" + "a" * 34: ("alice", ("lab",)), "hf_" + "b" * 34: ("bob", ())}
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pkl", ".flac", ".wav", ".parquet", ".arrow", ".onnx", ".png")
LFS_BYTES = 10_000_000
DATE = "2026-01-01T00:00:00.000Z"
KINDS = ("models", "datasets", "spaces")


@dataclass
class Blob:
    """Content of a file: its git identity, and its SHA-256 if it is kept outside of git."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        stored = self.content
        if self.lfs:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
            stored = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass
class Commit:
    tree: dict[str, Blob]
    parent: str | None
    title: str
    author: str

    @property
    def oid(self) -> str:
        files = sorted((path, blob.oid) for path, blob in self.tree.items())
        return hashlib.sha1(json.dumps([files, self.parent, self.title, self.author]).encode()).hexdigest()


@dataclass
class Repo:
    kind: str
    id: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    discussions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def add(self, commit: Commit) -> str:
        self.commits[commit.oid] = commit
        return commit.oid

    def resolve(self, revision: str) -> str | None:
        for names in (self.refs, self.tags):
            if revision in names:
                return names[revision]
        return revision if revision in self.commits else None


class Refusal(Exception):  # noqa: N818
    """An answer other than success."""

    def __init__(self, status: int, message: str, code: str | None = None, **extra: Any):
        super().__init__(message)
        self.status, self.message, self.code, self.extra = status, message, code, extra


class Hub:
    """State, and the rules about it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.log: list[dict[str, Any]] = []
        self.faults: list[dict[str, Any]] = []
        self.kill: dict[str, Any] | None = None

    def user(self, authorization: str | None) -> tuple[str, tuple[str, ...]] | None:
        if not authorization:
            return None
        token = authorization.removeprefix("Bearer ")
        if token not in TOKENS:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return TOKENS[token]

    def readable(self, kind: str, repo_id: str, user: tuple[str, tuple[str, ...]] | None) -> Repo:
        repo = self.repos.get((kind, repo_id))
        if repo is None or (repo.private and not may_write(repo.owner, user)):
            if user is None:
                raise Refusal(401, "Invalid username or password.", "RepoNotFound")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, kind: str, repo_id: str, user: tuple[str, tuple[str, ...]] | None, pull_request: bool = False) -> Repo:
        repo = self.readable(kind, repo_id, user)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if not may_write(repo.owner, user) and not pull_request:
            raise Refusal(403, f"Forbidden: you must use a write token of {repo.owner} to upload to a repository of {repo.owner}.")
        return repo

    def commit_of(self, repo: Repo, revision: str) -> tuple[str, Commit]:
        oid = repo.resolve(revision)
        if oid is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, repo.commits[oid]


def may_write(owner: str, user: tuple[str, tuple[str, ...]] | None) -> bool:
    return user is not None and (owner == user[0] or owner in user[1])


class Handler(BaseHTTPRequestHandler):
    """Routes a request to the method that answers it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two packets: the second would wait 40 ms for an answer to the first
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        """The log of requests is kept for the tests instead."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _serve(self) -> None:
        self.body = self._read_body()
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self.filters = parse_qs(parts.query).get("filter", [])
        self.route = parts.path
        if self.route == "/_control":
            return self._control()
        hub = self.hub
        with hub.lock:
            number = len(hub.log) + 1
            hub.log.append({"method": self.command, "path": self.path, "authorized": bool(self.headers.get("Authorization"))})
            doomed = hub.kill if hub.kill and hub.kill["at"] == number else None
            fault = next((fault for fault in hub.faults if re.search(fault["match"], f"{self.command} {self.path}")), None)
            if fault:
                fault["times"] -= 1
                if not fault["times"]:
                    hub.faults.remove(fault)
        if doomed and doomed["when"] == "before":
            os.kill(doomed["pid"], signal.SIGKILL)
            self.close_connection = True
            return None
        try:
            if fault:
                raise Refusal(fault["status"], fault.get("message", "injected"), fault.get("code"))
            with hub.lock:
                answer = self._answer()
        except Refusal as refusal:
            answer = {
                "status": refusal.status,
                "json": {"error": refusal.message, **refusal.extra},
                "headers": {"X-Error-Message": refusal.message, **({"X-Error-Code": refusal.code} if refusal.code else {})},
            }
            if "commit" in refusal.extra:
                answer["headers"]["X-Repo-Commit"] = refusal.extra["commit"]
        except Exception as error:
            answer = {
                "status": 500,
                "json": {"error": f"the test double failed: {error!r}"},
                "headers": {"X-Error-Message": repr(error)},
            }
        if doomed:
            os.kill(doomed["pid"], signal.SIGKILL)
            self.close_connection = True
            return None
        return self._send(**answer)

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(
        self, status: int = 200, json: Any = None, content: bytes | None = None, headers: dict[str, str] | None = None
    ) -> None:
        content = dumps(json) if content is None else content
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}
        for name, value in headers.items():
            self.send_header(name, value.replace("\n", " "))
        self.end_headers()
        if self.command != "HEAD":
            try:
                self.wfile.write(content)
            except OSError:
                self.close_connection = True

    def _control(self) -> None:
        hub = self.hub
        with hub.lock:
            if self.command == "POST":
                order = json.loads(self.body)
                if order.get("forget"):
                    hub.log, hub.faults, hub.kill = [], [], None
                if "fault" in order:
                    hub.faults.append({"times": 1, **order["fault"]})
                if "kill" in order:
                    hub.kill = order["kill"]
                if order.get("erase"):
                    hub.repos, hub.lfs = {}, {}
            self._send(json={"requests": hub.log})

    def _answer(self) -> dict[str, Any]:
        for pattern, methods, name in ROUTES:
            match = re.fullmatch(pattern, self.route)
            if match and self.command in methods:
                groups = {key: unquote(value) if value else value for key, value in match.groupdict().items()}
                return getattr(self, name)(**groups)
        raise Refusal(404, f"This test double does not know {self.command} {self.route}")

    @property
    def user(self) -> tuple[str, tuple[str, ...]] | None:
        return self.hub.user(self.headers.get("Authorization"))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def whoami(self) -> dict[str, Any]:
        user = self.user
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        return {"json": {"type": "user", "name": user[0], "orgs": [{"name": name, "type": "org"} for name in user[1]]}}

    def validate_yaml(self) -> dict[str, Any]:
        content = json.loads(self.body)["content"]
        match = re.match(r"^\s*---\r?\n(.*?)\r?\n---", content, re.DOTALL)
        try:
            data = yaml.safe_load(match.group(1)) if match else {}
            wrong = None if isinstance(data, dict) else "metadata is not a mapping"
        except yaml.YAMLError as error:
            wrong = str(error)
        if wrong:
            return {"status": 400, "json": {"errors": [{"message": wrong}], "warnings": []}}
        return {"json": {"errors": [], "warnings": []}}

    def create_repo(self) -> dict[str, Any]:
        order = json.loads(self.body)
        user = self.user
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        owner = order.get("organization") or user[0]
        kind = (order.get("type") or "model") + "s"
        repo_id = f"{owner}/{order['name']}"
        if not may_write(owner, user):
            raise Refusal(403, f"You don't have the rights to create a {kind[:-1]} under the namespace {owner!r}")
        url = f"{self.address}/{'' if kind == 'models' else kind + '/'}{repo_id}"
        if (kind, repo_id) in self.hub.repos:
            raise Refusal(409, f"You already created this {kind[:-1]} repo: {repo_id}", url=url)
        repo = Repo(kind, repo_id, bool(order.get("private")) or order.get("visibility") == "private")
        attributes = Blob(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", lfs=False)
        repo.refs["main"] = repo.add(Commit({".gitattributes": attributes}, None, "initial commit", user[0]))
        self.hub.repos[kind, repo_id] = repo
        return {"json": {"url": url, "name": repo_id, "id": repo_id}}

    def delete_repo(self) -> dict[str, Any]:
        order = json.loads(self.body)
        kind = (order.get("type") or "model") + "s"
        owner = order.get("organization") or (self.user or ("",))[0]
        repo = self.hub.writable(kind, f"{owner}/{order['name']}", self.user)
        del self.hub.repos[kind, repo.id]
        return {"content": b"OK"}

    def info(self, kind: str, repo: str, revision: str | None = None) -> dict[str, Any]:
        found = self.hub.readable(kind, repo, self.user)
        oid, commit = self.hub.commit_of(found, revision or "main")
        return {"json": self._described(found, oid, commit)}

    def _described(self, repo: Repo, oid: str, commit: Commit) -> dict[str, Any]:
        card = commit.tree.get("README.md")
        match = re.match(rb"^\s*---\r?\n(.*?)\r?\n---", card.content, re.DOTALL) if card else None
        data = yaml.safe_load(match.group(1)) if match else {}
        config = commit.tree.get("config.json")
        return {
            "_id": repo.id,
            "id": repo.id,
            "modelId": repo.id,
            "author": repo.owner,
            "sha": oid,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [str(tag) for tag in data.get("tags", [])],
            "pipeline_tag": data.get("pipeline_tag"),
            "library_name": data.get("library_name"),
            "cardData": data,
            "config": json.loads(config.content) if config and config.content.startswith(b"{") else {},
            "lastModified": DATE,
            "createdAt": DATE,
            "siblings": [{"rfilename": path} for path in sorted(commit.tree)],
            "spaces": [],
        }

    def search(self, kind: str) -> dict[str, Any]:
        user, found = self.user, []
        for (stored_kind, _), repo in self.hub.repos.items():
            if stored_kind != kind or (repo.private and not may_write(repo.owner, user)):
                continue
            described = self._described(repo, repo.refs["main"], repo.commits[repo.refs["main"]])
            if set(self.filters) <= {*described["tags"], described["pipeline_tag"], described["library_name"]}:
                found.append(described)
        return {"json": found}

    def tree(self, kind: str, repo: str, revision: str, folder: str | None = None) -> dict[str, Any]:
        found = self.hub.readable(kind, repo, self.user)
        oid, commit = self.hub.commit_of(found, revision)
        prefix = f"{folder}/" if folder else ""
        inside = {path: blob for path, blob in commit.tree.items() if path.startswith(prefix)}
        if folder and not inside:
            raise Refusal(404, f"{folder} does not exist on {revision!r}", "EntryNotFound", commit=oid)
        recursive = self.query.get("recursive", "").lower() == "true"
        files = [entry(path, blob) for path, blob in sorted(inside.items()) if recursive or "/" not in path[len(prefix) :]]
        names = {prefix + path[len(prefix) :].split("/")[0] for path in inside if "/" in path[len(prefix) :]}
        folders = [{"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0} for name in names]
        return {"json": sorted(folders + files, key=lambda one: one["path"])}

    def paths_info(self, kind: str, repo: str, revision: str) -> dict[str, Any]:
        found = self.hub.readable(kind, repo, self.user)
        _, commit = self.hub.commit_of(found, revision)
        if self.headers.get("Content-Type", "").startswith("application/json"):
            paths = json.loads(self.body)["paths"]
        else:
            paths = parse_qs(self.body.decode())["paths"]
        return {"json": [entry(path, commit.tree[path]) for path in paths if path in commit.tree]}

    def preupload(self, kind: str, repo: str, revision: str) -> dict[str, Any]:
        found = self.hub.writable(kind, repo, self.user, self.query.get("create_pr") == "1")
        _, commit = self.hub.commit_of(found, revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            lfs = file["path"].endswith(LFS_SUFFIXES) or file["size"] > LFS_BYTES
            there = commit.tree.get(file["path"])
            # The oid tells the client whether its file is news: of LFS files the SHA-256, of others git's.
            oid = None if there is None else there.sha256 if there.lfs else there.oid
            mode = "lfs" if lfs else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"json": {"files": answers}}

    def lfs_batch(self, kind: str | None, repo: str) -> dict[str, Any]:
        self.hub.readable((kind or "models/").strip("/"), repo, self.user)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            answer: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.lfs:
                answer["actions"] = {
                    "upload": {"href": f"{self.address}/_lfs/{asked['oid']}", "header": {}},
                    "verify": {"href": f"{self.address}/_lfs/verify", "header": {}},
                }
            objects.append(answer)
        return {"json": {"transfer": "basic", "objects": objects}}

    def lfs_put(self, sha: str) -> dict[str, Any]:
        if hashlib.sha256(self.body).hexdigest() != sha:
            raise Refusal(400, "The content does not match its SHA-256")
        self.hub.lfs[sha] = self.body
        return {"content": b""}

    def lfs_verify(self) -> dict[str, Any]:
        asked = json.loads(self.body)
        if len(self.hub.lfs.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "Object not found")
        return {"content": b""}

    def commit(self, kind: str, repo: str, revision: str) -> dict[str, Any]:
        wants_pr = self.query.get("create_pr") == "1"
        found = self.hub.writable(kind, repo, self.user, wants_pr)
        user = (self.user or ("?",))[0]
        lines = [json.loads(line) for line in self.body.splitlines() if line]
        header = next(line["value"] for line in lines if line["key"] == "header")
        oid, base = self.hub.commit_of(found, revision)
        if header.get("parentCommit") and not wants_pr and not oid.startswith(header["parentCommit"]):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(base.tree)
        for line in lines:
            self._apply(line, tree, found)
        number = None
        if wants_pr:
            number = len(found.discussions) + 1
            found.discussions.append(discussion(number, header["summary"], user, pull_request=True, base=revision))
            revision = f"refs/pr/{number}"
        found.refs[revision] = found.add(Commit(tree, oid, header["summary"], user))
        new = found.refs[revision]
        answer = {"success": True, "commitOid": new, "commitUrl": f"{self.address}/{repo}/commit/{new}", "hookOutput": ""}
        if number:
            answer["pullRequestUrl"] = f"{self.address}/{repo}/discussions/{number}"
        return {"json": answer}

    def _apply(self, line: dict[str, Any], tree: dict[str, Blob], repo: Repo) -> None:
        value = line["value"]
        if line["key"] == "file":
            tree[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
        elif line["key"] == "lfsFile":
            if value["oid"] not in self.hub.lfs:
                raise Refusal(400, f"{value['path']}: its LFS object was not uploaded")
            tree[value["path"]] = Blob(self.hub.lfs[value["oid"]], lfs=True)
        elif line["key"] == "deletedFile":
            if tree.pop(value["path"], None) is None:
                raise Refusal(404, f"A file with this name doesn't exist: {value['path']}", "EntryNotFound")
        elif line["key"] == "deletedFolder":
            for path in [path for path in tree if path.startswith(value["path"].rstrip("/") + "/")]:
                del tree[path]

    def branch(self, kind: str, repo: str, name: str) -> dict[str, Any]:
        found = self.hub.writable(kind, repo, self.user)
        if self.command == "DELETE":
            if found.refs.pop(name, None) is None:
                raise Refusal(404, "Reference not found", "RevisionNotFound")
            return {"content": b""}
        if name in found.refs:
            raise Refusal(409, "Reference already exists")
        start = json.loads(self.body or b"{}").get("startingPoint") or "main"
        found.refs[name] = self.hub.commit_of(found, start)[0]
        return {"content": b""}

    def tag(self, kind: str, repo: str, name: str) -> dict[str, Any]:
        found = self.hub.writable(kind, repo, self.user)
        if self.command == "DELETE":
            found.tags.pop(name, None)
            return {"content": b""}
        tag = json.loads(self.body)["tag"]
        if tag in found.tags:
            raise Refusal(409, "Tag reference exists already")
        found.tags[tag] = self.hub.commit_of(found, name)[0]
        return {"content": b""}

    def refs(self, kind: str, repo: str) -> dict[str, Any]:
        found = self.hub.readable(kind, repo, self.user)
        branches = {name: oid for name, oid in found.refs.items() if not name.startswith("refs/")}
        requests = {name: oid for name, oid in found.refs.items() if name.startswith("refs/pr/")}
        answer = {
            "branches": [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": oid} for n, oid in branches.items()],
            "tags": [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": oid} for n, oid in found.tags.items()],
            "converts": [],
        }
        if "include_prs" in self.query:
            answer["pullRequests"] = [{"name": n, "ref": n, "targetCommit": oid} for n, oid in requests.items()]
        return {"json": answer}

    def commits(self, kind: str, repo: str, revision: str) -> dict[str, Any]:
        found = self.hub.readable(kind, repo, self.user)
        oid: str | None = self.hub.commit_of(found, revision)[0]
        history = []
        while oid:
            commit = found.commits[oid]
            author = [{"user": commit.author, "name": commit.author}]
            history.append({"id": oid, "title": commit.title, "message": "", "date": DATE, "authors": author})
            oid = commit.parent
        return {"json": history}

    def discussions(self, kind: str, repo: str) -> dict[str, Any]:
        found = self.hub.readable(kind, repo, self.user)
        if self.command == "GET":
            shown = [{**one, "repo": {"name": repo, "type": kind[:-1]}} for one in found.discussions]
            return {"json": {"discussions": shown, "count": len(shown), "start": 0}}
        order, user = json.loads(self.body), (self.user or ("?",))[0]
        number = len(found.discussions) + 1
        found.discussions.append(discussion(number, order["title"], user, bool(order.get("pullRequest")), "main"))
        if order.get("pullRequest"):
            found.refs[f"refs/pr/{number}"] = found.refs["main"]
        return {"json": {"num": number, "url": f"{self.address}/{repo}/discussions/{number}"}}

    def discussion(self, kind: str, repo: str, number: str) -> dict[str, Any]:
        found = self.hub.readable(kind, repo, self.user)
        one = self._discussion(found, number)
        changes = {"base": one["base"], "mergeCommitId": one.get("mergeCommitId")}
        return {
            "json": {**one, "repo": {"name": repo, "type": kind[:-1]}, "changes": changes, "filesWithConflicts": [], "diff": ""}
        }

    def _discussion(self, repo: Repo, number: str) -> dict[str, Any]:
        if not 1 <= int(number) <= len(repo.discussions):
            raise Refusal(404, "Discussion not found")
        return repo.discussions[int(number) - 1]

    def discussion_action(self, kind: str, repo: str, number: str, action: str) -> dict[str, Any]:
        found = self.hub.writable(kind, repo, self.user, pull_request=action == "comment")
        user, order = (self.user or ("?",))[0], json.loads(self.body or b"{}")
        one = self._discussion(found, number)
        event = {"id": f"{number}-{len(one['events'])}", "createdAt": DATE, "author": {"name": user}}
        if action == "comment":
            event |= {"type": "comment", "data": {"edited": False, "hidden": False, "latest": {"raw": order["comment"]}}}
        elif action == "status":
            one["status"] = order["status"]
            event |= {"type": "status-change", "data": {"status": order["status"]}}
        else:
            theirs = found.commits[found.refs[f"refs/pr/{number}"]]
            onto = found.refs[one["base"]]
            base = found.commits[theirs.parent].tree if theirs.parent else {}
            tree = {path: blob for path, blob in found.commits[onto].tree.items() if path in theirs.tree or path not in base}
            tree |= {path: blob for path, blob in theirs.tree.items() if base.get(path) is not blob}
            found.refs[one["base"]] = found.add(Commit(tree, onto, f"{one['title']} (#{number})", user))
            one["status"], one["mergeCommitId"] = "merged", found.refs[one["base"]]
            event |= {"type": "status-change", "data": {"status": "merged"}}
        one["events"].append(event)
        return {"json": {"newMessage": event, "newStatus": event}}

    def resolve(self, kind: str | None, repo: str, revision: str, file: str) -> dict[str, Any]:
        found = self.hub.readable((kind or "models/").strip("/"), repo, self.user)
        oid, commit = self.hub.commit_of(found, revision)
        blob = commit.tree.get(file)
        if blob is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", commit=oid)
        headers = {"X-Repo-Commit": oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if blob.lfs:
            # Another host name, or the client would follow in HEAD; it must not send its token there either.
            self.hub.lfs[blob.sha256] = blob.content
            location = f"http://localhost:{self.server.server_address[1]}/_cdn/{blob.sha256}"
            linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content)), "Location": location}
            return {"status": 302, "content": b"", "headers": headers | linked}
        return self._ranged(blob.content, headers | {"Content-Type": "application/octet-stream"})

    def resolve_short(self, repo: str, revision: str, file: str) -> dict[str, Any]:
        """A repository without an owner, as the first ones on the Hub; there is none here."""
        return self.resolve(None, repo, revision, file)

    def cdn(self, sha: str) -> dict[str, Any]:
        if self.headers.get("Authorization"):
            raise Refusal(400, "The token was sent to another host")
        return self._ranged(self.hub.lfs[sha], {"ETag": f'"{sha}"', "Content-Type": "application/octet-stream"})

    def _ranged(self, content: bytes, headers: dict[str, str]) -> dict[str, Any]:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not match:
            return {"content": content, "headers": headers}
        start, end = int(match[1]), int(match[2] or len(content) - 1)
        described = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
        return {"status": 206, "content": content[start : end + 1], "headers": headers | described}


def entry(path: str, blob: Blob) -> dict[str, Any]:
    described: dict[str, Any] = {"type": "file", "path": path, "oid": blob.oid, "size": len(blob.content)}
    if blob.lfs:
        described["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}
    return described


def discussion(number: int, title: str, author: str, pull_request: bool, base: str) -> dict[str, Any]:
    return {
        "num": number,
        "title": title,
        "author": {"name": author},
        "createdAt": DATE,
        "status": "open",
        "isPullRequest": pull_request,
        "events": [],
        "base": base,
    }


def dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


KIND, REPO, REV = rf"(?P<kind>{'|'.join(KINDS)})", r"(?P<repo>[^/]+/[^/]+?)", r"(?P<revision>[^/]+|refs/pr/\d+)"
ROUTES = [
    ("/api/whoami-v2", ("GET",), "whoami"),
    ("/api/validate-yaml", ("POST",), "validate_yaml"),
    ("/api/repos/create", ("POST",), "create_repo"),
    ("/api/repos/delete", ("DELETE",), "delete_repo"),
    (f"/api/{KIND}", ("GET",), "search"),
    (f"/api/{KIND}/{REPO}", ("GET", "HEAD"), "info"),
    (f"/api/{KIND}/(?P<repo>[^/]+)", ("GET", "HEAD"), "info"),
    (r"/(?P<repo>[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", ("GET", "HEAD"), "resolve_short"),
    (f"/api/{KIND}/{REPO}/revision/{REV}", ("GET", "HEAD"), "info"),
    (f"/api/{KIND}/{REPO}/tree/{REV}(?:/(?P<folder>.+))?", ("GET",), "tree"),
    (f"/api/{KIND}/{REPO}/paths-info/{REV}", ("POST",), "paths_info"),
    (f"/api/{KIND}/{REPO}/preupload/{REV}", ("POST",), "preupload"),
    (f"/api/{KIND}/{REPO}/commit/{REV}", ("POST",), "commit"),
    (f"/api/{KIND}/{REPO}/branch/(?P<name>.+)", ("POST", "DELETE"), "branch"),
    (f"/api/{KIND}/{REPO}/tag/(?P<name>.+)", ("POST", "DELETE"), "tag"),
    (f"/api/{KIND}/{REPO}/refs", ("GET",), "refs"),
    (f"/api/{KIND}/{REPO}/commits/{REV}", ("GET",), "commits"),
    (f"/api/{KIND}/{REPO}/discussions", ("GET", "POST"), "discussions"),
    (rf"/api/{KIND}/{REPO}/discussions/(?P<number>\d+)", ("GET",), "discussion"),
    (rf"/api/{KIND}/{REPO}/discussions/(?P<number>\d+)/(?P<action>comment|status|merge)", ("POST",), "discussion_action"),
    (r"/(?P<kind>datasets/|spaces/)?(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", ("POST",), "lfs_batch"),
    ("/_lfs/verify", ("POST",), "lfs_verify"),
    ("/_lfs/(?P<sha>[0-9a-f]{64})", ("PUT",), "lfs_put"),
    ("/_cdn/(?P<sha>[0-9a-f]{64})", ("GET", "HEAD"), "cdn"),
    (rf"/(?P<kind>datasets/|spaces/)?(?P<repo>[^/]+/[^/]+)/resolve/{REV}/(?P<file>.+)", ("GET", "HEAD"), "resolve"),
]


def main() -> None:
    Handler.hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0), Handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
