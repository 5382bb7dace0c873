"""Sends what schemathesis makes of the OpenAPI document to a real server: `python -m tests.fuzz.http SCHEMATHESIS`.

It takes FUZZ_SECONDS, half of them with the id of a finished job. It starts a private Redis, a stand-in worker and
a server. Streams that never end are left out; `tests/tasks/server/events/test_events.py` has them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.settings import Settings
from tests.conftest import STAND_IN, RedisProcess, Worker, wait_until
from tests.tasks.server.conftest import KEY, Server

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
ENDLESS = "^/events$|live.mp4$"
SHOWN_LINES = 200


def main() -> int:
    """Run it; not 0 if an answer was a server error, or one that the document does not describe."""
    schemathesis = Path(sys.argv[1]).absolute()
    seconds = max(1, int(float(os.environ.get("FUZZ_SECONDS", "60"))) // 2)
    with TemporaryDirectory(prefix="longtake-fuzz-") as name:
        folder = Path(name)
        redis = RedisProcess(folder)
        settings = Settings(redis_url=redis.url, home=folder, engine=STAND_IN, api_keys=KEY)
        worker, server = Worker(settings, folder / "worker.log"), Server(settings, folder / "server.log")
        command = [schemathesis, "run", f"{server.url}/openapi.json", "--checks", CHECKS, "--max-time", str(seconds)]
        command += ["--header", f"Authorization: Bearer {KEY}", "--request-timeout", "30", "--continue-on-failure"]
        command += ["--no-color", "--warnings", "off", "--exclude-path-regex", ENDLESS]
        try:
            status = subprocess.run(command, cwd=folder).returncode
            # again with a job that exists, or most requests would only be a 404
            parameters = "".join(f'"path.{place}" = "{finished_job(server)}"\n' for place in ("job_id", "video_id"))
            (folder / "schemathesis.toml").write_text(f"[parameters]\n{parameters}")
            status |= subprocess.run([*command, "--exclude-method", "DELETE"], cwd=folder).returncode
            if status:
                print("".join((folder / "server.log").read_text().splitlines(keepends=True)[-SHOWN_LINES:]))
        finally:
            server.stop()
            worker.stop()
            redis.stop()
    return status


def finished_job(server: Server) -> str:
    """The id of a finished job."""
    spec = {"width": 64, "height": 32, "frames": 17, "segments": [{"prompt": "a"}, {"prompt": "b"}]}
    with server.client() as client:
        job_id = str(client.post("/jobs", json=spec).raise_for_status().json()["id"])
        wait_until(lambda: client.get(f"/jobs/{job_id}").json()["state"] == "done", what="a job")
    return job_id


if __name__ == "__main__":
    sys.exit(main())
