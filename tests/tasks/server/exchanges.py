"""What tests of the server send, and what they read in its answers."""

from __future__ import annotations

import io
from typing import Any

import httpx2
from PIL import Image

from tests.conftest import wait_until

FILE = "/etc/passwd"
NAMES_A_FILE: dict[str, dict[str, Any]] = {
    "images.0.path": {"images": [{"at": 0, "path": FILE}]},
    "segments.0.image": {"segments": [{"prompt": "a", "image": FILE}]},
    "segments.0.end_image": {"segments": [{"prompt": "a", "end_image": FILE}]},
    "segments.0.images.0.path": {"segments": [{"prompt": "a", "images": [{"frame": 1, "path": FILE}]}]},
}
ONLY_THESE = "must be an upload or a base64 data: URL"


def finished(client: httpx2.Client, job_id: str) -> dict[str, Any]:
    """The job, once it has ended."""

    def ended() -> dict[str, Any] | None:
        job: dict[str, Any] = client.get(f"/jobs/{job_id}").json()
        return job if job["finished_at"] else None

    found: dict[str, Any] = wait_until(ended, what="the job")
    return found


def submitted(client: httpx2.Client, body: dict[str, Any], **headers: str) -> str:
    answer = client.post("/jobs", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/jobs/{answer.json()['id']}"
    return str(answer.json()["id"])


def png(color: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 32), color).save(file, "PNG")
    return file.getvalue()


def error_of(answer: httpx2.Response) -> tuple[int, str]:
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    return answer.status_code, answer.json()["error"]["message"]
