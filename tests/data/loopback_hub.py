"""A Hugging Face Hub on the loopback interface: enough of its protocol for the real clients, and faults."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

# what a request for a path gets instead: a status, or one of "truncate", "corrupt", "hang"
Fault = Callable[[str], int | str | None]


class LoopbackHub:
    """Serves the files below `root` as dataset and model `OWNER/stories` of every owner but "nobody"."""

    def __init__(self, root: Path) -> None:
        self.fault: Fault = lambda path: None
        self.requests: list[str] = []
        self.files = {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }
        self.commit = hashlib.sha1(b"".join(self.files.values())).hexdigest()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_POST = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *arguments: Any) -> None:
        self.server.shutdown()
        self.server.server_close()

    def has(self, repository: str) -> bool:
        """Whether there is such a repository."""
        owner, _, name = repository.partition("/")
        return name == "stories" and owner != "nobody"

    def entry(self, name: str) -> dict[str, Any]:
        """The tree's line of a file; parquet files are stored as large ones, named by their SHA-256."""
        content = self.files[name]
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": oid}
        if name.endswith(".parquet"):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
        return entry

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        url = urlsplit(request.path)
        path = unquote(url.path)
        self.requests.append(f"{request.command} {path}")
        fault = self.fault(path)
        if isinstance(fault, int):
            self.refuse(request, fault, "")
        elif fault == "hang":
            time.sleep(60)
        elif match := re.fullmatch(r"/api/(?:datasets|models)/([^/]+/[^/]+)(?:/(\w[\w-]*)/?(.*))?", path):
            self.answer_api(request, *match.groups(), query=parse_qs(url.query), body=body)
        elif match := re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.answer_file(request, *match.groups(), fault=fault)
        else:
            self.refuse(request, 404, "")

    def answer_api(
        self,
        request: BaseHTTPRequestHandler,
        repository: str,
        what: str | None,
        rest: str,
        *,
        query: Any,
        body: bytes,
    ) -> None:
        """Answer for the repository, a revision of it, its tree, or some paths."""
        if not self.has(repository):
            self.refuse(request, 401, "RepoNotFound")
            return
        revision, _, below = (rest or "main").partition("/")
        if revision not in ("main", self.commit):
            self.refuse(request, 404, "RevisionNotFound")
        elif what in (None, "revision"):
            info = {"_id": "0" * 24, "id": repository, "author": repository.split("/")[0], "sha": self.commit}
            info |= {
                "private": False,
                "gated": False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
            info |= {
                "lastModified": "2024-01-01T00:00:00.000Z",
                "siblings": [{"rfilename": name} for name in self.files],
            }
            self.send(request, 200, json.dumps(info).encode())
        elif what == "tree":
            deep = query.get("recursive", ["false"])[0].lower() in ("1", "true")
            entries = self.tree(below, deep)
            if below and not entries:
                self.refuse(request, 404, "EntryNotFound")
            else:
                self.send(request, 200, json.dumps(entries).encode())
        elif what == "paths-info":
            wanted = (
                json.loads(body).get("paths", [])
                if body[:1] == b"{"
                else parse_qs(body.decode()).get("paths", [])
            )
            entries = [self.entry(name) for name in wanted if name in self.files]
            entries += [
                entry
                for entry in self.tree("", True)
                if entry["type"] == "directory" and entry["path"] in wanted
            ]
            self.send(request, 200, json.dumps(entries).encode())
        else:
            self.refuse(request, 404, "")

    def tree(self, below: str, deep: bool) -> list[dict[str, Any]]:
        """The files and folders below a folder."""
        prefix = f"{below.rstrip('/')}/" if below else ""
        folders = {str(parent) for name in self.files for parent in Path(name).parents if str(parent) != "."}
        entries = [
            {"type": "directory", "path": f, "size": 0, "oid": hashlib.sha1(f.encode()).hexdigest()}
            for f in folders
        ]
        entries += [self.entry(name) for name in self.files]
        inside = [entry for entry in entries if entry["path"].startswith(prefix)]
        return [entry for entry in inside if deep or "/" not in entry["path"][len(prefix) :]]

    def answer_file(
        self,
        request: BaseHTTPRequestHandler,
        repository: str,
        revision: str,
        name: str,
        fault: str | int | None,
    ) -> None:
        """Answer with a file, or the part of it that was asked for."""
        if not self.has(repository):
            self.refuse(request, 401, "RepoNotFound")
            return
        if name not in self.files:
            self.refuse(request, 404, "EntryNotFound")
            return
        entry, content = self.entry(name), self.files[name]
        tag = entry.get("lfs", entry)["oid"]
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": self.commit, "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            headers |= {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(content))}
        if fault == "corrupt":
            content = content[:200] + bytes(len(content) - 400) + content[-200:]
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or "")
        status = 200
        if part and request.command == "GET":
            start, stop = int(part[1]), int(part[2] or len(content) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{min(stop, len(content)) - 1}/{len(content)}"
            content, status = content[start:stop], 206
        self.send(request, status, content, headers, cut=fault == "truncate")

    def refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        """Answer with an error as the Hub words it."""
        self.send(
            request,
            status,
            json.dumps({"error": code}).encode(),
            {"X-Error-Code": code, "X-Error-Message": code},
        )

    def send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        cut: bool = False,
    ) -> None:
        """Send an answer, or half of it before closing the connection."""
        try:
            request.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                request.send_header(name, value)
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            if request.command != "HEAD":
                request.wfile.write(content[: len(content) // 2] if cut else content)
                if cut:
                    request.wfile.flush()
                    request.close_connection = True
                    request.connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # the client has gone
            request.close_connection = True


class HubProcess:
    """A process of its own for the client of the Hub, which reads its environment when it is imported."""

    CODE = ""  # answers each line of JSON on its input with one on its output

    def __init__(self, url: str, home: Path, **environment: str) -> None:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))
        }
        variables = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **environment}
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE],
            env={**inherited, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, *question: object) -> Any:
        """Ask and return the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
