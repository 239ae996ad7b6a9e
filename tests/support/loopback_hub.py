"""The Hub on this machine: as much of its protocol as the real client needs to publish and load models."""

import base64
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import unquote, urlsplit


OWNER, TOKEN = "me", "hf_me"  # who may write, and read what is private
LARGE_SUFFIXES = (".safetensors", ".png", ".jpg", ".mp4")  # git LFS by the Hub's own rules
PROXIES = [f"{name}_proxy" for name in ("http", "https", "all")]


@dataclass
class Repository:
    is_private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # files by commit, oldest first

    def commit(self, files: dict[str, bytes]) -> str:
        content = repr([(name, hashlib.sha1(data).hexdigest()) for name, data in sorted(files.items())])
        sha = hashlib.sha1(f"{len(self.commits)} {content}".encode()).hexdigest()
        self.commits[sha] = files
        return sha

    def sha_of(self, revision: str) -> str | None:
        return [*self.commits][-1] if revision == "main" else revision if revision in self.commits else None

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.sha_of("main")]


class LoopbackHub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repositories: dict[str, Repository] = {}
        self.large_files: dict[str, bytes] = {}  # by SHA-256
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()  # that anything was written with
        self.lock = Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, folder: Path, is_private: bool = False) -> str:
        """Publishes a folder; returns the commit."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
        return self.repositories.setdefault(name, Repository(is_private)).commit(files)

    @contextlib.contextmanager
    def running(self) -> Iterator["LoopbackHub"]:
        thread = Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()
            thread.join()

    def run(self, code: str, home: Path, token: str | None = None, python: list[str] | None = None) -> str:
        """
        What a client prints, in a process of its own: it reads the Hub's address and its cache's place once, when it
        is imported.
        """
        result = run_client(code, self.endpoint, home, token, python)
        assert result.returncode == 0, result.stderr
        return result.stdout


def run_client(
    code: str, endpoint: str, home: Path, token: str | None = None, python: list[str] | None = None
) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    environment = {name: value for name, value in environment.items() if name.lower() not in PROXIES}
    environment |= {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",  # large files by LFS, over the same HTTP
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    } | ({"HF_TOKEN": token} if token else {})
    home.mkdir(exist_ok=True)
    command = [*(python or [sys.executable]), "-c", code]
    return subprocess.run(command, env=environment, cwd=home, check=False, capture_output=True, text=True, timeout=600)


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def log_message(self, *args) -> None:
        pass

    # --- answers ---

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, content: dict | list, status: int = 200) -> None:
        self.send(status, json.dumps(content).encode(), Content_Type="application/json")

    def refuse(self, status: int, code: str) -> None:
        self.send(status, X_Error_Code=code, X_Error_Message=code)

    @property
    def is_owner(self) -> bool:
        return self.headers["Authorization"] == f"Bearer {TOKEN}"

    def find(self, path: str, kind: str) -> tuple[str, Repository, str, str] | None:
        """ "me/leo/KIND/REVISION/rest" -> name, repository, commit and rest; None where the answer was given here."""
        name, _, rest = path.partition(f"/{kind}/")
        revision, _, rest = rest.partition("/")
        repository = self.server.repositories.get(name)
        if repository is None or (repository.is_private and not self.is_owner):
            return self.refuse(404 if self.is_owner else 401, "RepoNotFound")
        sha = repository.sha_of(unquote(revision) or "main") if repository.commits else ""
        if sha is None:
            return self.refuse(404, "RevisionNotFound")
        return name, repository, sha, unquote(rest)

    # --- reading ---

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.strip("/")
        self.server.requests.append(f"{self.command} {path}")
        if not path.startswith("api/models/"):
            return self.send_file(path)
        path = path.removeprefix("api/models/")
        if "/tree/" in path:
            if (found := self.find(path, "tree")) is not None:
                files = found[1].commits.get(found[2], {})
                self.send_json([self.entry(name, data) for name, data in files.items()])
            return
        if (found := self.find(path, "revision")) is not None:
            name, repository, sha, _ = found
            siblings = [{"rfilename": file} for file in repository.commits.get(sha, {})]
            self.send_json(
                {"_id": "0", "id": name, "modelId": name, "sha": sha, "private": repository.is_private}
                | {"siblings": siblings, "tags": []}
            )

    def entry(self, name: str, data: bytes) -> dict:
        entry = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        if name.endswith(LARGE_SUFFIXES):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry

    def send_file(self, path: str) -> None:
        if "/resolve/" not in path:
            return self.refuse(404, "RepoNotFound")
        if (found := self.find(path, "resolve")) is None:
            return
        _, repository, sha, name = found
        if name not in repository.commits.get(sha, {}):
            return self.refuse(404, "EntryNotFound")
        data = repository.commits[sha][name]
        digest = hashlib.sha256(data) if name.endswith(LARGE_SUFFIXES) else hashlib.sha1(data)
        self.send(200, data, ETag=f'"{digest.hexdigest()}"', X_Repo_Commit=sha, Accept_Ranges="bytes")

    # --- writing ---

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def do_PUT(self) -> None:
        data = self.body()
        self.server.large_files[hashlib.sha256(data).hexdigest()] = data
        self.send(200)

    def do_POST(self) -> None:
        path, data = urlsplit(self.path).path.strip("/"), self.body()
        self.server.requests.append(f"{self.command} {path}")
        if path == "api/validate-yaml":
            return self.send_json({"errors": [], "warnings": []})
        if not self.is_owner:
            return self.refuse(401, "RepoNotFound")
        self.server.tokens.add(self.headers["Authorization"].removeprefix("Bearer "))
        if path == "api/repos/create":
            self.create(json.loads(data))
        elif path.endswith("/info/lfs/objects/batch"):
            self.send_json(
                {"transfer": "basic", "objects": [self.upload_of(one) for one in json.loads(data)["objects"]]}
            )
        elif "/preupload/" in path:
            files = [file["path"] for file in json.loads(data)["files"]]
            modes = ["lfs" if name.endswith(LARGE_SUFFIXES) else "regular" for name in files]
            self.send_json(
                {"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in zip(files, modes)]}
            )
        elif (found := self.find(path.removeprefix("api/models/"), "commit")) is not None:
            self.commit(found[1], [json.loads(line) for line in data.splitlines()], found[0])

    def create(self, request: dict) -> None:
        name = f"{request['organization'] or OWNER}/{request['name']}"
        is_private = request.get("private", request.get("visibility") == "private")
        exists = name in self.server.repositories
        self.server.repositories.setdefault(name, Repository(bool(is_private)))
        self.send_json({"url": f"{self.server.endpoint}/{name}", "id": name}, 409 if exists else 200)

    def upload_of(self, file: dict) -> dict:
        if file["oid"] in self.server.large_files:
            return file
        return file | {"actions": {"upload": {"href": f"{self.server.endpoint}/lfs/{file['oid']}"}}}

    def commit(self, repository: Repository, lines: list[dict], name: str) -> None:
        with self.server.lock:
            files = dict(repository.files) if repository.commits else {}
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.server.large_files[value["oid"]]
            sha = repository.commit(files)
        self.send_json({"commitUrl": f"{self.server.endpoint}/{name}/commit/{sha}", "commitOid": sha, "success": True})
