"""`/jobs` over HTTP: a real server, a real worker, a real Redis."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import httpx2
import pytest

from tests.conftest import Worker, wait_until
from tests.ltx2.media.sources.videos import numbered, tone, video
from tests.tasks.conftest import spec
from tests.tasks.server.conftest import KEY, Server
from tests.tasks.server.exchanges import error_of, finished, png, submitted


def test_a_job_is_submitted_watched_and_saved(client: httpx2.Client, worker: Worker) -> None:
    # When
    job_id = submitted(client, spec("a", "b"))
    # Then it is done after a while, and its film is an MP4 that can be read in parts
    job = finished(client, job_id)
    assert (job["state"], job["committed"], job["clips"], job["title"]) == ("done", 2, 2, "harbour at dawn")
    film = client.get(f"/jobs/{job_id}/film")
    assert film.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(film.content)) as container:
        assert container.streams.video[0].frames == job["film"]["frames"] == 25
    part = client.get(f"/jobs/{job_id}/film", headers={"Range": "bytes=4-11"})
    assert (part.status_code, part.content) == (206, film.content[4:12])
    # And so are its clips, and what is known of it
    clip = client.get(f"/jobs/{job_id}/segments/1/clip")
    assert clip.content[4:8] == b"ftyp"
    summary = client.get(f"/jobs/{job_id}/summary").json()
    assert [segment["prompt"] for segment in summary["segments"]] == ["a", "b"]
    assert summary["model"] == "shapes"
    # And it is in the list
    assert client.get("/jobs", params={"limit": 1}).json()["jobs"][0]["id"] == job_id


def test_a_state_is_exported_and_continued(client: httpx2.Client, worker: Worker) -> None:
    # Given
    job_id = submitted(client, spec("a", "b"))
    finished(client, job_id)
    # When
    state = client.get(f"/jobs/{job_id}/segments/0/state").json()
    files = {"state": ("state.json", json.dumps(state), "application/json")}
    answer = client.post("/jobs", data={"spec": json.dumps(spec("b", seed=4))}, files=files)
    # Then the continuation is the same as in the first job
    assert state["kind"] == "ltx2.v1"
    assert finished(client, answer.json()["id"])["state"] == "done"


@pytest.mark.parametrize("form", [True, False], ids=["upload", "data URL"])
def test_images_are_sent(client: httpx2.Client, worker: Worker, form: bool) -> None:
    # Given
    file = ("i.png", png(), "image/png")
    url = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    body, more = spec("a", "b", model="shapes"), {"segments": [{"prompt": "c"}]}
    # When one starts the film, others are of its segments, and one of a segment that is appended
    if form:
        files = {"image": file, "segments.1.image": file, "segments.1.end_image": ("i.png", png("blue"), "image/png")}
        job_id = client.post("/jobs", data={"spec": json.dumps(body)}, files=files).json()["id"]
        added = {"data": {"spec": json.dumps(more)}, "files": {"segments.0.image": file}}
    else:
        body["segments"][1] |= {"image": url, "images": [{"frame": 3, "path": url}]}
        job_id = submitted(client, body | {"image": url})
        added = {"json": {"segments": [{"prompt": "c", "image": url}]}}
    answers = [client.post(f"/jobs/{job_id}/segments", **added, headers={"Idempotency-Key": "c"}) for _ in range(2)]
    # Then
    assert [answer.json().get("segments", answer.text) for answer in answers] == [3, 3]
    assert finished(client, job_id)["state"] == "done"
    # And what is no image, or for no field, is refused, and named as it was sent
    for name, words in (("segments.0.image", "segments.0.image: not a PNG"), ("segments.7.image", "no such image")):
        files = {name: ("i.png", b"no image" * 9, "image/png")}
        found = error_of(client.post(f"/jobs/{job_id}/segments", data={"spec": json.dumps(more)}, files=files))
        assert found[0] == 400
        assert words in found[1]
        assert "/" not in found[1]
    found = error_of(client.post(f"/jobs/{job_id}/segments", json=more | {"seed": 3}))
    assert found == (400, "seed: only segments and images can be appended")


def test_a_video_and_a_sound_are_sent(client: httpx2.Client, worker: Worker) -> None:
    # When a video is extended, and a sound is given
    film = video(numbered(30), sound=tone(30 / 24))
    files = {"extend": ("harbour.mp4", film, "video/mp4")}
    extended = client.post("/jobs", data={"spec": json.dumps(spec("a"))}, files=files)
    given = client.post("/jobs", data={"spec": json.dumps(spec("a"))}, files={"audio": ("a.mp4", film, "audio/mp4")})
    # Then
    assert finished(client, extended.json()["id"])["state"] == "done"
    assert finished(client, given.json()["id"])["state"] == "done"
    # And what is none is refused without a path of the server
    refused = client.post(
        "/jobs", data={"spec": json.dumps(spec("a"))}, files={"extend": ("a.mp4", b"x" * 100, "video/mp4")}
    )
    assert refused.status_code == 400
    assert "longtake-upload" not in refused.text


def test_jobs_are_paused_resumed_cancelled_and_forgotten(client: httpx2.Client, tmp_path: Path) -> None:
    # Given a job that no worker ends
    job_id = submitted(client, spec(f"wait until {tmp_path / 'never'}"))
    # Then
    for change, state in [("pause", "paused"), ("resume", "queued"), ("pause", "paused"), ("cancel", "cancelled")]:
        answer = client.post(f"/jobs/{job_id}/{change}")
        assert (answer.status_code, answer.json()["state"]) in [(200, state), (200, "running")]
    assert error_of(client.post(f"/jobs/{job_id}/resume"))[0] == 409
    assert client.delete(f"/jobs/{job_id}").status_code == 204
    assert error_of(client.get(f"/jobs/{job_id}"))[0] == 404


def test_an_open_film_is_steered(client: httpx2.Client, worker: Worker) -> None:
    # Given an open job that asks for approval
    job_id = submitted(client, {**spec(), "segments": "open", "approve": True})
    # When a segment is appended, once more because the reply was lost, and gets another prompt
    for _ in range(2):
        answer = client.post(
            f"/jobs/{job_id}/segments", json={"segments": [{"prompt": "a"}]}, headers={"Idempotency-Key": "first"}
        )
        assert (answer.status_code, answer.json()["segments"]) == (200, 1)
    other = {"segments": [{"prompt": "other"}]}
    refused = client.post(f"/jobs/{job_id}/segments", json=other, headers={"Idempotency-Key": "first"})
    assert error_of(refused) == (
        409,
        f"other segments were appended to job {job_id} with this idempotency key, the first as segment 0; use another "
        "key for more",
    )
    # Then it is played once it is known whether the film ends with it
    wait_until(lambda: client.get(f"/jobs/{job_id}").json()["clips"] == 1, what="the first clip")
    assert client.get(f"/jobs/{job_id}").json()["state"] == "awaiting approval"
    assert error_of(client.get(f"/jobs/{job_id}/live.m3u8"))[0] == 404
    assert error_of(client.put(f"/jobs/{job_id}/segments/0/prompt", json={"prompt": "late"}))[0] == 409
    assert client.post(f"/jobs/{job_id}/segments", json={"segments": [{"prompt": "b"}]}).status_code == 200
    assert client.put(f"/jobs/{job_id}/segments/1/prompt", json={"prompt": "c"}).status_code == 200
    assert client.get(f"/jobs/{job_id}/live.m3u8").text.count("#EXTINF") == 1
    # When it is approved and closed
    assert client.post(f"/jobs/{job_id}/approve", params={"segment": 0}).status_code == 200
    assert client.post(f"/jobs/{job_id}/close").json()["state"] in ("running", "awaiting approval")
    wait_until(lambda: client.get(f"/jobs/{job_id}").json()["committed"] == 2, what="the second segment")
    assert client.post(f"/jobs/{job_id}/approve", params={"all": True}).status_code == 200
    # Then it is done; segments that are appended begin another playlist
    assert finished(client, job_id)["state"] == "done"
    assert client.get(f"/jobs/{job_id}/summary").json()["segments"][1]["prompt"] == "c"
    assert "live/0/" in client.get(f"/jobs/{job_id}/live.m3u8").text
    client.post(f"/jobs/{job_id}/segments", json={"segments": [{"prompt": "d"}]})
    assert "live/1/" in client.get(f"/jobs/{job_id}/live.m3u8").text
    assert finished(client, job_id)["segments"] == 3


def test_takes_are_asked_for_compared_and_chosen(client: httpx2.Client, worker: Worker) -> None:
    # Given
    job_id = submitted(client, spec("a", "b", frames=25))
    film = finished(client, job_id)["film"]["sha256"]
    segment = f"/jobs/{job_id}/segments/0"
    assert client.get(f"/jobs/{job_id}/takes").json() == []
    # When takes are asked for, once more because the reply was lost
    for _ in range(2):
        wanted = {"prompt": "another", "seed": 5, "takes": 2}
        answer = client.post(f"{segment}/takes", json=wanted, headers={"Idempotency-Key": "once"})
        assert (answer.status_code, answer.json()) == (202, {"segment": 0, "takes": [1, 2]})
    assert error_of(client.post(f"{segment}/takes", json={"last": 1}, headers={"Idempotency-Key": "once"}))[0] == 409
    finished(client, job_id)
    # Then they are listed, and can be looked at
    takes = client.get(f"/jobs/{job_id}/takes").json()
    assert [(take["take"], take["state"], take["shown"], take["prompt"], take["clip"]) for take in takes] == [
        (0, "rendered", True, "a", True),
        (1, "rendered", False, "another", True),
        (2, "rendered", False, "another", True),
    ]
    clips = [client.get(f"{segment}/takes/{take}/clip").content for take in range(3)]
    assert clips[0] == client.get(f"{segment}/clip").content
    assert len(set(clips)) == 3
    # When one is chosen
    chosen = client.post(f"{segment}/choose", json={"take": 2})
    assert chosen.status_code == 200
    assert chosen.json()["state"] in ("running", "done")  # a worker may be quicker than the answer
    # Then the film shows it
    assert finished(client, job_id)["film"]["sha256"] != film
    assert client.get(f"/jobs/{job_id}/summary").json()["segments"][0]["take"] == 2
    # When both segments are one take
    assert client.post(f"{segment}/takes", json={"last": 1}).json() == {"segment": 0, "takes": [3]}
    finished(client, job_id)
    whole = client.get(f"/jobs/{job_id}/takes").json()[-1]
    assert (whole["segment"], whole["last"], whole["take"], whole["leads_into"]) == (0, 1, 3, True)
    client.post(f"/jobs/{job_id}/segments/1/choose", json={"take": 3})
    finished(client, job_id)
    # Then both are shown
    assert [one["take"] for one in client.get(f"/jobs/{job_id}/summary").json()["segments"]] == [3, 3]
    # And the job is kept, and is no longer
    for change, body in (("keep", {"seconds": 60}), ("keep", None), ("release", None)):
        assert client.post(f"/jobs/{job_id}/{change}", json=body).json()["id"] == job_id


def test_a_film_is_forked_and_edited(client: httpx2.Client, worker: Worker) -> None:
    # Given a film of two segments
    body = spec("a", "b")
    job_id = submitted(client, body)
    finished(client, job_id)
    # When it is forked twice with one key, and once more with it after another segment
    changed = body | {"segments": [body["segments"][0], {"prompt": "c"}]}
    key = {"Idempotency-Key": f"fork of {job_id}"}
    first, again = (client.post(f"/jobs/{job_id}/fork?after=0", json=changed, headers=key) for _ in range(2))
    other = client.post(f"/jobs/{job_id}/fork?after=0", json=changed | {"seed": 77}, headers=key)
    # Then there is one fork, with the segments of the spec
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    assert error_of(other)[0] == 409
    fork_id = first.json()["id"]
    assert finished(client, fork_id)["fork_of"] == {"id": job_id, "after": 0}
    assert client.get(f"/jobs/{job_id}").json()["fork_of"] is None
    for page in ("/", f"/films/{fork_id}"):
        assert f'ork of <a href="/films/{job_id}">{job_id}</a> after segment 0' in client.get(page).text
    assert [one["prompt"] for one in client.get(f"/jobs/{fork_id}/summary").json()["segments"]] == ["a", "c"]
    # And without a spec the rest is rendered anew, in a job of its own
    rest = client.post(f"/jobs/{job_id}/fork?after=0").json()["id"]
    assert rest not in (job_id, fork_id)
    assert error_of(client.post(f"/jobs/{job_id}/fork?after=7"))[0] == 409
    # When its spec gets another segment, Then it is said what that needs, and done in place
    longer = body | {"segments": [*body["segments"], {"prompt": "d"}]}
    planned = client.post(f"/jobs/{job_id}/edit?dry_run=true", json=longer).json()
    assert (planned["kind"], planned["kept"], planned["job"]) == ("in place", 2, None)
    edited = client.post(f"/jobs/{job_id}/edit", json=longer).json()
    assert (edited["plan"], edited["job"]["id"], edited["job"]["segments"]) == (planned["plan"], job_id, 3)
    finished(client, job_id)
    # And a spec of a file of this machine is refused
    hostile = longer | {"segments": [{"prompt": "a", "image": "/etc/passwd"}]}
    assert error_of(client.post(f"/jobs/{job_id}/edit", json=hostile))[0] == 400
    # And a state to continue, which would not be used
    parts = {"spec": (None, json.dumps(longer)), "state": (None, '{"kind": "ltx2.v1", "payload": {}}')}
    for path in ("fork?after=0", "edit"):
        assert error_of(client.post(f"/jobs/{job_id}/{path}", files=parts)) == (
            400,
            "state: the film goes on from segments of the job; remove it",
        )


def test_takes_that_cannot_be_are_refused(client: httpx2.Client, worker: Worker) -> None:
    job_id = submitted(client, spec("a", "b", frames=25))
    finished(client, job_id)
    for place, body, status, words in (
        ("0/takes", {"takes": 17}, 400, "takes: must be at most 16"),
        ("0/takes", {"take": 1}, 400, "take: unknown key; did you mean takes?"),
        ("0/takes", {"x": 1}, 400, "x: unknown key; the keys are last, prompt, seed, takes"),
        ("0/takes", {"prompt": " "}, 400, "prompt: must not be blank"),
        ("0/takes", {"seed": -1}, 400, "seed: must be at least 0"),
        ("0/takes", {"last": 7}, 409, f"segment 2 of job {job_id} is not rendered; segments 0 to 1 are rendered"),
        ("1/takes", {"last": 0}, 400, "last: must be 1 or a later segment, not 0"),
        ("7/takes", {}, 409, f"segment 7 of job {job_id} is not rendered"),
        ("-1/takes", {}, 400, "segment: must be at least 0"),
        ("0/choose", {"take": 1}, 409, "there is no take 1"),
        ("0/choose", {"take": 1, "last": 1}, 409, "there is no take 1 of segments 0 to 1"),
        ("1/choose", {"take": 0, "last": 0}, 400, "last: must be 1 or a later segment, not 0"),
        ("0/choose", {}, 400, "take: "),
    ):
        found = error_of(client.post(f"/jobs/{job_id}/segments/{place}", json=body))
        assert found[0] == status, found
        assert words in found[1]
    assert client.post(f"/jobs/{job_id}/segments/0/choose", json={"take": 0, "last": 1}).status_code == 200
    assert error_of(client.get(f"/jobs/{job_id}/segments/0/takes/1/clip"))[0] == 409
    assert client.post(f"/jobs/{job_id}/segments/0/takes").json() == {"segment": 0, "takes": [1]}
    assert error_of(client.post(f"/jobs/{job_id}/keep", json={"seconds": 0}))[0] == 400
    assert error_of(client.get("/jobs/nobody/takes"))[0] == 404


def test_the_same_submission_again_is_the_same_job(client: httpx2.Client) -> None:
    first = submitted(client, spec("a"), **{"Idempotency-Key": "once"})
    assert submitted(client, spec("a"), **{"Idempotency-Key": "once"}) == first
    status, message = error_of(client.post("/jobs", json=spec("b"), headers={"Idempotency-Key": "once"}))
    assert status == 409
    assert "belongs to job" in message
    client.post(f"/jobs/{first}/cancel")


def test_jobs_are_listed_in_pages(client: httpx2.Client) -> None:
    # Given
    made = [submitted(client, spec(open=True)) for _ in range(3)]
    # When
    first = client.get("/jobs", params={"limit": 2}).json()
    second = client.get("/jobs", params={"limit": 2, "after": first["next"]}).json()
    # Then
    assert [job["id"] for job in first["jobs"]] == made[:0:-1]
    assert second["jobs"][0]["id"] == made[0]
    # And by state
    for job_id in made:
        client.post(f"/jobs/{job_id}/cancel")
    found = client.get("/jobs", params={"state": "cancelled", "limit": 3}).json()
    assert {job["state"] for job in found["jobs"]} == {"cancelled"}


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer \u00e9"])
def test_requests_without_a_key_are_refused(server: Server, header: str) -> None:
    headers = {"Authorization": header.encode("latin-1")} if header else {}
    answer = httpx2.get(f"{server.url}/jobs", headers=headers)
    assert error_of(answer) == (401, "send `Authorization: Bearer KEY` with a key of this server")
    assert httpx2.get(f"{server.url}/openapi.json").status_code == 401
    assert httpx2.get(f"{server.url}/health").json() == {"status": "ok"}


def test_other_paths_and_methods_are_answered_in_the_same_form(client: httpx2.Client, tmp_path: Path) -> None:
    assert error_of(client.get("/nothing"))[0] == 404
    wrong = client.put("/jobs")
    assert (*error_of(wrong), wrong.headers["allow"]) == (405, "PUT is not allowed here", "HEAD, GET, POST")
    assert error_of(client.get("/jobs", params={"limit": 0})) == (400, "limit: must be at least 1, not '0'")
    answer = client.get("/jobs/nobody")
    assert error_of(answer) == (404, "there is no job nobody; `GET /jobs` lists the jobs")
    assert "must be 'queued', 'running', " in error_of(client.get("/jobs", params={"state": "bogus"}))[1]
    body = b'{"prompt": "a", "promt": "b"}'
    unfinished = submitted(client, spec(f"wait until {tmp_path / 'never'}"))
    segments = f"/jobs/{unfinished}/segments"
    answer = client.put(f"{segments}/0/prompt", content=body, headers={"Content-Type": "text/plain"})
    assert error_of(answer) == (400, "the request: send its JSON with the header Content-Type: application/json")
    answer = client.put(f"{segments}/0/prompt", content=body, headers={"Content-Type": "application/json"})
    assert error_of(answer) == (400, "promt: unknown key; did you mean prompt?")
    answer = client.post(segments, json={"segments": [{"prompt": "a", "promt": "b"}]})
    assert error_of(answer) == (400, "spec:1: segments.0.promt: unknown key; did you mean prompt?")
    answer = client.put(f"{segments}/0/prompt", content=body[1:], headers={"Content-Type": "application/json"})
    assert error_of(answer) == (400, "the request: not valid JSON")
    for broken, words in (
        (b"[" * 10**5, "its body cannot be read"),
        (b"7", "must be a mapping, not 7"),
        (b'{"prompt": "a", "prompt": "b"}', "its body cannot be read: prompt is given more than once"),
    ):
        answer = client.put(f"{segments}/0/prompt", content=broken, headers={"Content-Type": "application/json"})
        assert error_of(answer) == (400, f"the request: {words}")
    answer = client.post("/jobs", content=b"{}", headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert error_of(answer) == (400, "the request: its body cannot be read: Invalid multipart data.")
    for what, status in (("0/clip", 409), ("9/clip", 404), ("9/state", 404), ("9/join", 404), ("9/takes/1/clip", 404)):
        assert error_of(client.get(f"{segments}/{what}"))[0] == status
    client.post(f"/jobs/{unfinished}/cancel")
    assert error_of(client.get("/jobs/..%2F..%2Fetc"))[0] == 404
    assert error_of(client.get("/jobs", params={"after": "gone"}))[0] == 404


def test_the_document_describes_a_spec(client: httpx2.Client) -> None:
    document = client.get("/openapi.json").json()
    body = document["paths"]["/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "segments" in body["properties"]
    # And what goes wrong, in one form
    answers = document["paths"]["/jobs"]["post"]["responses"]
    assert set(answers) == {"201", "4XX", "5XX"}
    # And so does a page that loads nothing from elsewhere
    page = client.get("/docs")
    assert "POST /jobs/{job_id}/retry" in page.text
    assert "Idempotency-Key" in page.text or "idempotency-key" in page.text
    assert not re.findall(r"https?://", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/jobs", "/", "/docs", "/metrics", "/events", "/jobs/{job}", "/jobs/{job}/events"])
def test_head_is_get_without_a_body(client: httpx2.Client, path: str) -> None:
    job_id = submitted(client, spec("a"))
    answer = client.head(path.format(job=job_id))
    assert (answer.status_code, answer.content) == (200, b"")
    client.post(f"/jobs/{job_id}/cancel")


def test_it_listens_on_loopback_alone_without_keys(longtake: Callable[..., Any], server: Server) -> None:
    open_to_all = server.settings.model_copy(update={"api_keys": None})
    refused = longtake("serve", "--host", "0.0.0.0", settings=open_to_all)
    assert (refused.returncode, refused.stderr) == (
        1,
        "longtake: 0.0.0.0 can be reached from other machines: set LONGTAKE_API_KEYS, or listen on 127.0.0.1 "
        "(the default)\n",
    )
    short = longtake("serve", settings=server.settings.model_copy(update={"api_keys": "short"}))
    assert short.stderr == "longtake: LONGTAKE_API_KEYS: a key must have 16 or more characters\n"
    for unsendable in ("ключ" * 4, "\udcff" * 16):
        refused = longtake("serve", settings=server.settings.model_copy(update={"api_keys": unsendable}))
        assert refused.stderr == "longtake: LONGTAKE_API_KEYS: a key must have ASCII letters, digits and signs only\n"


def test_an_address_that_it_cannot_have_is_one_line(longtake: Callable[..., Any], server: Server) -> None:
    taken = longtake("serve", "--port", str(server.port), settings=server.settings)
    assert (taken.returncode, taken.stderr) == (
        1,
        f"longtake: port {server.port} of 127.0.0.1 is in use: choose another one with --port\n",
    )
    elsewhere = longtake("serve", "--host", "192.0.2.1", "--port", "0", settings=server.settings)
    assert elsewhere.stderr == (
        "longtake: cannot listen at 192.0.2.1, port 0: Cannot assign requested address; see --host and --port\n"
    )
