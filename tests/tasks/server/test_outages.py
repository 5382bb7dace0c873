"""What clients get when Redis is out, a blob is lost, a record is damaged, or they read too slowly."""

from __future__ import annotations

import asyncio
import errno
import re
import resource
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from blobstore import InMemoryBlobStore, open_blob_store
from ltx2.media.temporary import temporary_folder
from tasks.errors import MaybeQueuedError
from tasks.jobs.connection import connect
from tasks.jobs.events import Event, EventKind
from tasks.jobs.keys import job_keys
from tasks.server import app
from tasks.server.events import hub
from tasks.server.events.hub import QUEUE_LENGTH, Listener
from tasks.server.events.messages import Message
from tasks.server.films.blob_files import FOLDERS, BlobFiles
from tasks.server.http.answers import problem_of
from tasks.server.routes.spec_requests import with_uploads
from tasks.settings import Settings
from tasks.spec.loader import check_spec
from tests.conftest import RedisProcess, Worker, wait_until
from tests.tasks.conftest import spec
from tests.tasks.server.conftest import Server
from tests.tasks.server.events.test_events import told
from tests.tasks.server.exchanges import error_of, finished, png, submitted


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """One that keeps what it has, as in a deployment."""
    server = RedisProcess(tmp_path_factory.mktemp("redis"), "--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.stop()


def test_lost_blobs_are_an_answer(client: httpx2.Client, worker: Worker, redis_server: RedisProcess) -> None:
    # Given a finished job whose film and clips are lost
    job_id = submitted(client, spec("a"))
    finished(client, job_id)
    pieces = client.get(f"/jobs/{job_id}/live").json()["pieces"]
    blobs = set(re.findall("sha256:[0-9a-f]{64}", client.get(f"/jobs/{job_id}/summary").text))
    film = client.get(f"/jobs/{job_id}").json()["film"]["sha256"]
    with connect(redis_server.url) as redis:
        for blob in {*blobs, film}:
            for key in redis.scan_iter(f"*{blob.rpartition(':')[2]}*"):
                redis.delete(key)
    with closing(open_blob_store(redis_server.url)) as store:
        assert not any(blob in store for blob in blobs)
    # Then it is said what is lost and what to do, and no server error
    for path in ("film", "segments/0/clip", "segments/0/state"):
        status, message = error_of(client.get(f"/jobs/{job_id}/{path}"))
        assert (status, message) == (410, "a part of this job is lost; `retry` renders it again"), path
    assert error_of(client.get(f"/v1/videos/{job_id}/content", params={"variant": "thumbnail"}))[0] == 410
    assert error_of(client.get(pieces[0]))[0] == 410
    assert client.get(f"/films/{job_id}").status_code == 200
    assert error_of(client.get(f"/films/{job_id}/0.svg"))[0] == 410
    client.delete(f"/jobs/{job_id}")


def test_a_damaged_record_hides_no_other_job(client: httpx2.Client, redis_server: RedisProcess) -> None:
    # Given a job whose record is damaged, next to a good one
    good, damaged = (submitted(client, spec("a")) for _ in range(2))
    with connect(redis_server.url) as redis:
        redis.hset(job_keys(damaged, "record")[0], "spec", b"\xff")
        redis.hset(job_keys(damaged, "record")[0], "cursor", b"many")
    # Then lists and pages have the other one
    for path in ("/jobs", "/v1/videos", "/", "/metrics"):
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text)
        assert good in answer.text or path == "/metrics"
    # And it is said of the damaged one that it is, also once a worker has failed it for that
    assert "damaged" in client.get(f"/jobs/{damaged}").text
    with connect(redis_server.url) as redis:
        redis.delete(*redis.scan_iter(f"*{damaged}*"))
    client.post(f"/jobs/{good}/cancel")


def test_streams_go_on_after_an_outage_of_redis(
    client: httpx2.Client, server: Server, redis_server: RedisProcess
) -> None:
    # Given somebody who follows all jobs
    with client.stream("GET", "/events") as answer:
        first = submitted(client, spec("a"))
        stream = told(answer)
        assert any(data["job"] == first for _, _, data in stream)  # those of earlier jobs may come, too
        # When Redis is out for a while, Then requests say so
        redis_server.stop()
        assert error_of(client.get("/jobs")) == (
            503,
            "a server of the deployment cannot be reached; try again",
        )
        redis_server.start()
        # And then the same stream has what comes
        second = submitted(client, spec("a"))
        assert any(data["job"] == second for _, _, data in stream)
    for job_id in (first, second):
        client.post(f"/jobs/{job_id}/cancel")


def test_a_deleted_job_ends_its_streams(client: httpx2.Client) -> None:
    # Given somebody who follows a job that no worker ends
    job_id = submitted(client, spec(open=True))
    kinds: list[str] = []

    def follow() -> None:
        with client.stream("GET", f"/jobs/{job_id}/events") as answer:
            kinds.extend(kind for _, kind, _ in told(answer))

    follower = threading.Thread(target=follow)
    follower.start()
    wait_until(lambda: kinds, what="the first event")
    # When it is cancelled and deleted
    client.delete(f"/v1/videos/{job_id}")
    # Then the stream ends
    follower.join(60)
    assert not follower.is_alive()
    assert kinds[-1] == "cancelled"


def test_a_video_that_may_be_queued_is_not_asked_for_again() -> None:
    """The `openai` client asks again after a 503, which would be a second job."""
    problem = problem_of(MaybeQueuedError("the reply was lost", "0123456789abcdef"))
    assert (problem.status, problem.headers["x-should-retry"]) == (503, "false")


def test_a_wait_for_events_is_shorter_than_that_for_a_reply(settings: Settings) -> None:
    # Given a deployment with short leases, in which a reply may take one second
    server = app.make_app(settings)

    async def longest_wait_s() -> float:
        async with server.router.lifespan_context(server):
            connections = server.state.context.hub._reader._redis.connection_pool
            return float(connections.connection_kwargs["socket_timeout"])

    # When / Then a second without an event is no outage
    assert asyncio.run(longest_wait_s()) >= hub.WAIT_S + settings.reply_timeout_s


def test_work_in_the_background_that_fails_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given work that fails twice
    monkeypatch.setattr(app, "AGAIN_S", 0.0)
    begun: list[int] = []

    async def work() -> None:
        begun.append(len(begun))
        assert len(begun) == 3, "a fault"

    # Then it is begun a third time
    asyncio.run(app._kept_up(work))
    assert begun == [0, 1, 2]


def test_a_full_disk_is_an_answer(tmp_path: Path) -> None:
    # Given a disk without room for what a client asks for
    files = BlobFiles(tmp_path, InMemoryBlobStore())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path))
    assert (problem_of(full).status, problem_of(full).message) == (507, "the server's disk for temporary files is full")
    # When it is to be kept
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError):
            files.keep("a film", bytes(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    # Then no part of it is left, and it is kept once there is room
    assert list(tmp_path.iterdir()) == []
    with files.keep("a film", bytes(100)) as file:
        assert file.read() == bytes(100)


def test_what_a_killed_server_left_is_deleted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Given the folders of a server that was killed during a request, and of one that runs
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    one = check_spec({"segments": [{"prompt": "a"}]})
    (tmp_path / "longtake-server-upload-killed").mkdir()
    (tmp_path / "longtake-server-upload-killed" / "image").write_bytes(png())
    # When another one starts
    with with_uploads(one, {"image": png()}) as running, temporary_folder(FOLDERS) as folder:
        # Then only what nobody uses any more is gone
        assert running.image is not None
        assert set(tmp_path.iterdir()) == {folder, Path(running.image).parent}


def test_a_slow_listener_is_cut_off_and_keeps_what_fitted() -> None:
    # Given a listener that does not read
    listener = Listener(None)
    for number in range(QUEUE_LENGTH + 10):
        listener.offer(Message(Event(f"{number}-0", "job", "1-0", EventKind.STEP)))
    # Then it ends after what fitted, so that its client asks again from there on
    assert len(asyncio.run(listener.take(60))) == QUEUE_LENGTH
    assert listener.is_over


def test_those_who_read_nothing_hinder_nobody(client: httpx2.Client, server: Server) -> None:
    # Given many who follow all jobs, and read nothing
    request = f"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {client.headers['authorization']}\r\n\r\n"
    sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    try:
        for each in sockets:
            each.sendall(request.encode())
        for each in sockets:
            assert each.recv(15).startswith(b"HTTP/1.1 200")
        # Then one who reads gets events at once
        with client.stream("GET", "/events") as answer:
            job_id = submitted(client, spec("a"))
            assert any(data["job"] == job_id for _, _, data in told(answer))
    finally:
        for each in sockets:
            each.close()
    client.post(f"/jobs/{job_id}/cancel")
