"""A hub on this machine, with one repository."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A hub with one repository, `owner/name`; its revisions `main` and `v1` are the files in `folder`."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.requested: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def answer(self, path: str) -> tuple[int, bytes]:
        kind, _, rest = path.removeprefix("/api/models/").removeprefix("/").partition("owner/name")
        _, verb, revision, *file = (*rest.split("/"), "", "")
        if kind or revision not in ("main", "v1", COMMIT):
            return 404, b""
        if verb == "revision":
            sizes = {name: (self.folder / name).stat().st_size for name in self.files()}
            siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
            return 200, json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": siblings}).encode()
        if verb == "tree":
            tree = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in self.files()]
            return 200, json.dumps(tree).encode()
        name = "/".join(part for part in file if part)
        self.requested.append(name)
        return (200, (self.folder / name).read_bytes()) if name in self.files() else (404, b"")

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = hub.answer(unquote(urlsplit(self.path).path))
                self.send_response(status)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def use_hub(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have models fetched from the hub at this port, into a cache in `tmp_path`."""
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
