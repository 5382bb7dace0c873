"""Playing a film while it renders: the playlist grows, never changes, and plays as the film does."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import re
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import httpx2
import numpy as np
import pytest
import redis
from starlette.concurrency import run_in_threadpool

from ltx2.media.live import LivePiece, live_piece
from tasks.deployment import Deployment
from tasks.jobs.connection import connect
from tasks.jobs.keys import job_keys
from tasks.jobs.records import JobStatus
from tasks.jobs.store import JobStore
from tasks.server.films.blob_files import BlobFiles
from tasks.server.films.live import LiveFilms, Piece, PieceList, playlist
from tests.conftest import Worker, wait_until
from tests.ltx2.media.sources.videos import numbered, tone, video
from tests.tasks.client.inputs.test_given_sound import RATE, ramp
from tests.tasks.conftest import spec
from tests.tasks.server.conftest import Server
from tests.tasks.server.exchanges import finished, submitted


def urls(text: str) -> list[str]:
    """The header and the pieces of a playlist."""
    header = re.search(r'#EXT-X-MAP:URI="(.*)"', text)
    assert header
    return [header[1], *(line for line in text.splitlines() if not line.startswith("#"))]


def played(client: httpx2.Client, job_id: str) -> bytes:
    """All that a player gets, joined."""
    text = client.get(f"/jobs/{job_id}/live.m3u8").text
    return b"".join(client.get(f"/jobs/{job_id}/{url}").content for url in urls(text))


def pictures(data: bytes) -> Iterator[tuple[Fraction, bytes]]:
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(video=0):
            assert frame.pts is not None
            assert frame.time_base is not None
            yield frame.pts * frame.time_base, frame.to_ndarray().tobytes()


def sound(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with av.open(io.BytesIO(data)) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


@pytest.fixture
def film(client: httpx2.Client, worker: Worker) -> str:
    """A finished job of three segments."""
    job_id = submitted(client, spec("a", "b", "c"))
    assert finished(client, job_id)["state"] == "done"
    return job_id


def test_the_pieces_play_as_the_film_does(client: httpx2.Client, film: str) -> None:
    # When
    answer = client.get(f"/jobs/{film}/live.m3u8")
    # Then the playlist has a piece for each clip, and its end
    assert answer.headers["content-type"].startswith("application/vnd.apple.mpegurl")
    assert answer.text.splitlines()[:6] == [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        "#EXT-X-TARGETDURATION:1",
        "#EXT-X-MEDIA-SEQUENCE:0",
        "#EXT-X-PLAYLIST-TYPE:EVENT",
        "#EXT-X-INDEPENDENT-SEGMENTS",
    ]
    assert answer.text.count("#EXTINF") == 3
    assert answer.text.endswith("#EXT-X-ENDLIST\n")
    assert "DISCONTINUITY" not in answer.text
    # And its pictures and their times are those of the film; the sound, too, but for the first block
    live, whole = played(client, film), client.get(f"/jobs/{film}/film").content
    assert list(pictures(live)) == list(pictures(whole))
    count = sound(live).shape[1] // 1024 * 1024
    assert np.abs(sound(live)[:, 1024:count] - sound(whole)[:, 1024:count]).max() < 0.03
    # And scripts are told the same
    view = client.get(f"/jobs/{film}/live").json()
    assert [view["header"], *view["pieces"]] == [f"/jobs/{film}/{url}" for url in urls(answer.text)]
    assert (view["epoch"], view["ended"]) == (0, True)
    # And the growing MP4 is the same bytes
    assert client.get(f"/jobs/{film}/live.mp4").content == live


def test_pieces_of_a_film_with_given_sound_have_that_sound(client: httpx2.Client, worker: Worker) -> None:
    # Given a film whose sound was uploaded
    track = video(None, kind="wav", sound=ramp(1.5), sound_codec="pcm_s16le", rate=RATE)
    sent = {"audio": ("track.wav", track, "audio/wav")}
    job_id = client.post("/jobs", data={"spec": json.dumps(spec("a", "b", "c"))}, files=sent).json()["id"]
    finished(client, job_id)
    # When it is played live
    live, whole = (sound(data) for data in (played(client, job_id), client.get(f"/jobs/{job_id}/film").content))
    # Then the same is heard, up to the block that is not there
    count = 33 * RATE // 24
    assert np.corrcoef(live[0, 1024:count], whole[0, 1024:count])[0, 1] > 0.98


@pytest.mark.parametrize("before", [False, True])
def test_the_video_that_a_film_shows_is_played_too(client: httpx2.Client, worker: Worker, before: bool) -> None:
    # Given a finished job whose film begins, or ends, with a video
    answer = client.post(
        "/jobs",
        data={"spec": json.dumps(spec("a", "b", frames=25, include_video=True, before=before))},
        files={"extend": ("harbour.mp4", video(numbered(30), sound=tone(30 / 24)), "video/mp4")},
    )
    job_id = answer.json()["id"]
    assert finished(client, job_id)["state"] == "done"
    # When
    live, whole = played(client, job_id), client.get(f"/jobs/{job_id}/film").content
    # Then it has a piece for the video, and plays as the film does
    assert client.get(f"/jobs/{job_id}/live.m3u8").text.count("#EXTINF") == 3
    assert list(pictures(live)) == list(pictures(whole))
    count = sound(live).shape[1] // 1024 * 1024
    assert np.abs(sound(live)[:, 1024:count] - sound(whole)[:, 1024:count]).max() < 0.03


def test_pieces_are_made_once_and_cached_for_ever(client: httpx2.Client, film: str, server: Server) -> None:
    # Given
    text = client.get(f"/jobs/{film}/live.m3u8").text
    first = played(client, film)
    kept = connect(server.settings.redis_url).hgetall(job_keys(film, "pieces")[0])
    # When the server is started again
    server.stop()
    server.start()
    # Then it lists the same, and nothing is made anew
    assert client.get(f"/jobs/{film}/live.m3u8").text == text
    assert played(client, film) == first
    assert connect(server.settings.redis_url).hgetall(job_keys(film, "pieces")[0]) == kept
    assert len(kept) == 3
    piece = client.get(f"/jobs/{film}/{urls(text)[1]}", headers={"Range": "bytes=0-7"})
    assert (piece.status_code, piece.content[4:]) == (206, b"moof")
    assert piece.headers["cache-control"] == "private, max-age=31536000, immutable"  # the server has keys
    # And they go with their job
    client.delete(f"/jobs/{film}")
    assert not connect(server.settings.redis_url).exists(*job_keys(film, "pieces"))


def test_pieces_take_no_room_from_jobs(client: httpx2.Client, worker: Worker, server: Server, tmp_path: Path) -> None:
    # Given a job that needs all of the budget, with one clip that can be played
    job_id = submitted(client, spec("a", f"wait until {tmp_path / 'go'}"))
    with closing(JobStore(connect(server.settings.redis_url), server.settings)) as jobs:
        wait_until(lambda: jobs.status(job_id).clips, what="the first clip")
        before = jobs.reserved_bytes()
        budget = server.settings.model_copy(update={"blob_budget_bytes": before})
        small = Server(budget, tmp_path / "server.log")
        try:
            # When a server with that budget plays it
            with small.client() as other:
                piece = played(other, job_id)
                assert played(other, job_id) == piece
        finally:
            small.stop()
        # Then nothing is kept of it
        assert jobs.reserved_bytes() == before
        assert not jobs._redis.exists(*job_keys(job_id, "pieces"))
        # When a server without a budget does, Then it plays the same, and the piece is reserved and kept
        assert played(client, job_id) == piece
        assert jobs.reserved_bytes() == before + len(piece)
        assert jobs._redis.hlen(job_keys(job_id, "pieces")[0]) == 1
    client.post(f"/jobs/{job_id}/cancel")
    (tmp_path / "go").touch()


def test_players_that_wait_for_a_piece_keep_no_thread(
    client: httpx2.Client, worker: Worker, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given more players than the server has threads, and a piece that takes long to make
    job = submitted(client, spec("a"))
    finished(client, job)
    begun, released, made = threading.Event(), threading.Event(), []

    def made_slowly(*arguments: Any, **options: Any) -> LivePiece:
        begun.set()
        released.wait()
        made.append(arguments)
        return live_piece(*arguments, **options)

    monkeypatch.setattr("tasks.server.films.live.live_piece", made_slowly)

    async def play(films: LiveFilms, status: JobStatus) -> set[bytes]:
        name = films.pieces(status).pieces[0].name
        players = [asyncio.create_task(films.piece(job, name)) for _ in range(60)]
        await run_in_threadpool(begun.wait)
        # When something else is asked for
        try:
            await asyncio.wait_for(run_in_threadpool(films.pieces, status), timeout=20)
        finally:
            released.set()
        found = set()
        for player in players:
            with await player as piece:
                found.add(piece.data.read())
        return found

    # Then it is answered, and the piece is made once
    with Deployment(server.settings) as deployment:
        films = LiveFilms(deployment, BlobFiles(tmp_path, deployment.blobs))
        assert len(asyncio.run(play(films, deployment.jobs.status(job)))) == len(made) == 1


def test_a_known_piece_is_one_question_to_redis(
    film: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    ask = redis.Redis.execute_command

    def counted(self: redis.Redis, *command: object, **options: object) -> object:
        asked.append(command[0])
        return ask(self, *command, **options)

    async def played_twice(films: LiveFilms, name: str) -> bytes:
        with await films.piece(film, name) as first:
            data = first.data.read()
        monkeypatch.setattr(redis.Redis, "execute_command", counted)
        with await films.piece(film, name) as second:
            assert second.data.read() == data
        return data

    # Given
    with Deployment(server.settings) as deployment:
        films = LiveFilms(deployment, BlobFiles(tmp_path, deployment.blobs))
        status = deployment.jobs.status(film)
        listed = films.pieces(status)
        # When a piece is asked for again, Then it costs one command
        assert asyncio.run(played_twice(films, listed.pieces[0].name))
        assert asked == ["HGET"]
        # And the same list is written once
        assert playlist(films.pieces(status), "live/0/") is playlist(listed, "live/0/")


def test_the_list_grows_while_the_film_renders(client: httpx2.Client, worker: Worker) -> None:
    # Given a job with many segments
    job_id = submitted(client, spec(*"abcdefgh"))
    # When its playlist is asked for until it ends
    seen: list[str] = []
    while not seen or "ENDLIST" not in seen[-1]:
        answer = client.get(f"/jobs/{job_id}/live.m3u8")
        if answer.status_code == 404:
            assert answer.headers["retry-after"] == "2"
        else:
            seen.append(answer.text)
    # Then each list begins with the one before
    for before, after in itertools.pairwise(seen):
        assert after.startswith(before.removesuffix("#EXT-X-ENDLIST\n"))
    assert len(urls(seen[-1])) == 9
    # And what the last one lists plays to the end
    frames = list(pictures(played(client, job_id)))
    assert [time for time, _ in frames] == [Fraction(i, 24) for i in range(17 + 7 * 8)]


def test_an_open_job_without_a_segment_has_nothing_to_play_yet(client: httpx2.Client) -> None:
    # Given
    job_id = submitted(client, spec(open=True))
    # Then
    assert client.get(f"/jobs/{job_id}/live").json()["pieces"] == []
    assert client.get(f"/jobs/{job_id}/live.m3u8").status_code == 404
    client.post(f"/jobs/{job_id}/cancel")


def test_a_list_under_an_old_epoch_is_gone(client: httpx2.Client, film: str, server: Server) -> None:
    # Given
    place = client.get(f"/jobs/{film}/live.m3u8").headers["content-location"]
    assert client.get(place).status_code == 200
    # When a repair has changed the film
    connect(server.settings.redis_url).hincrby(job_keys(film, "record")[0], "epoch", 1)
    # Then
    assert client.get(place).status_code == 410
    assert client.get(f"/jobs/{film}/live.m3u8").headers["content-location"] != place


def test_nothing_else_is_a_piece(client: httpx2.Client, film: str) -> None:
    for name in ("0" * 32, "..%2F..%2Fetc", "x"):
        assert client.get(f"/jobs/{film}/live/0/{name}.m4s").status_code == 404


def test_a_playlist_is_written_as_players_expect(tmp_path: Path) -> None:
    # Given pieces of a film at 23.976 frames per second that is not done
    fps = Fraction(24000, 1001)
    listed = PieceList(2, (Piece(0, "aa", 25 / fps), Piece(1, "bb", 16 / fps)), 25 / fps, False)
    # Then no duration is longer than the target, which does not depend on what is there. Without a sequence number
    # Chromium takes the list for a whole film, and with a discontinuity it hangs there
    head = (
        "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:EVENT\n"
        '#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-MAP:URI="live/2/aa.init.mp4"\n'
    )
    pieces = "#EXTINF:1.042708,\nlive/2/aa.m4s\n#EXTINF:0.667333,\nlive/2/bb.m4s\n"
    assert playlist(listed, "live/2/") == head + pieces
    assert playlist(replace(listed, ended=True), "live/2/") == head + pieces + "#EXT-X-ENDLIST\n"


def test_a_download_that_broke_off_goes_on(client: httpx2.Client, film: str) -> None:
    # Given the beginning of a film, and its tag
    first = client.get(f"/jobs/{film}/film", headers={"Range": "bytes=0-99"})
    assert (first.status_code, len(first.content)) == (206, 100)
    # When the rest of the same film is asked for, and then that of another one
    rest = client.get(f"/jobs/{film}/film", headers={"Range": "bytes=100-", "If-Range": first.headers["etag"]})
    other = client.get(f"/jobs/{film}/film", headers={"Range": "bytes=100-", "If-Range": '"other"'})
    # Then the parts make the film, and a film that is another one comes whole
    assert (rest.status_code, other.status_code) == (206, 200)
    assert first.content + rest.content == other.content
    assert rest.headers["content-range"] == f"bytes 100-{len(other.content) - 1}/{len(other.content)}"


@pytest.mark.parametrize("tags", ["{}", "W/{}", '"other", {}', "*"])
def test_a_client_that_has_the_film_gets_no_bytes(client: httpx2.Client, film: str, tags: str) -> None:
    tag = client.head(f"/jobs/{film}/film").headers["etag"]
    answer = client.get(f"/jobs/{film}/film", headers={"If-None-Match": tags.format(tag), "Range": "bytes=0-9"})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)


@pytest.mark.parametrize("wanted", ["bytes=1000000-", "bytes=-0", "bytes=1000000-,-0", f"bytes={'9' * 5000}-"])
def test_a_range_beyond_the_end_is_refused(client: httpx2.Client, film: str, wanted: str) -> None:
    size = client.head(f"/jobs/{film}/film").headers["content-length"]
    answer = client.get(f"/jobs/{film}/film", headers={"Range": wanted})
    assert (answer.status_code, answer.json()["error"]["code"]) == (416, "range")
    assert answer.headers["content-range"] == f"bytes */{size}"


def test_ranges_beyond_the_end_are_left_out(client: httpx2.Client, film: str) -> None:
    # Given ranges of which one has ten bytes of the film, and numbers with more digits than `int` reads
    far = "9" * 5000
    for wanted in ("0-9, 1000000-1000001", "-0,,0-9,", f"{'0' * 5000}-9,{far}-"):
        # When / Then
        answer = client.get(f"/jobs/{film}/film", headers={"Range": f"bytes={wanted}"})
        assert (answer.status_code, len(answer.content)) == (206, 10)
    # and an end that is far behind that of the film is the film's
    for wanted in (f"0-{far}", f"-{far}"):
        whole = client.get(f"/jobs/{film}/film", headers={"Range": f"bytes={wanted}"})
        assert whole.headers["content-range"].startswith("bytes 0-")


@pytest.mark.parametrize("wanted", ["bytes=9-5", "bytes=a-b", "bytes=-", "lines=0-1", "bytes", "bytes=0-1,x"])
def test_a_malformed_range_is_ignored(client: httpx2.Client, film: str, wanted: str) -> None:
    size = client.head(f"/jobs/{film}/film").headers["content-length"]
    answer = client.get(f"/jobs/{film}/film", headers={"Range": wanted})
    assert (answer.status_code, len(answer.content)) == (200, int(size))
