"""`/v1/videos` with the official client."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import redis
from PIL import Image

from ltx2.timeline import SegmentShape, film_frames, plan
from tasks.jobs.keys import job_keys
from tasks.server.routes.videos import segments_for
from tests.conftest import RedisProcess, Worker
from tests.ltx2.media.sources.videos import numbered, tone, video
from tests.tasks.server.conftest import KEY, Server
from tests.tasks.server.exchanges import FILE, NAMES_A_FILE, ONLY_THESE, png

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning")
SMALL = {"width": 64, "height": 32, "frames": 17, "seed": 3, "fps": 24}


@pytest.fixture
def videos(server: Server) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client.videos


def created(videos: Any, **changes: Any) -> Any:
    """A small finished video."""
    options = {"prompt": "a", "seconds": "1", "extra_body": {"spec": json.dumps(SMALL)}} | changes
    return videos.create_and_poll(poll_interval_ms=50, **options)


def picture(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_a_video_is_made_and_downloaded(videos: Any, worker: Worker) -> None:
    # When
    video = created(videos, prompt="a red circle", seconds="1")
    # Then
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert (video.object, video.model, video.size, video.seconds) == ("video", "shapes", "64x32", "1")
    assert video.prompt == "a red circle"
    assert video.created_at <= video.completed_at < video.expires_at
    # And its film is at least as long, by whole segments; its pictures are there, too
    film = videos.download_content(video.id)
    assert film.read()[4:8] == b"ftyp"
    assert film.response.headers["content-type"] == "video/mp4"
    assert picture(videos.download_content(video.id, variant="thumbnail").read()).format == "WEBP"
    sheet = picture(videos.download_content(video.id, variant="spritesheet").read())
    assert (sheet.format, sheet.size) == ("JPEG", (64 * 5, 32 * 5))


def test_sizes_that_are_no_multiple_of_32_are_cropped(videos: Any, worker: Worker) -> None:
    # When
    video = created(videos, size="60x50", extra_body={"spec": json.dumps({"frames": 17})})
    # Then
    assert video.size == "60x50"
    assert picture(videos.download_content(video.id, variant="thumbnail").read()).size == (60, 50)


def test_a_reference_starts_the_video(videos: Any, worker: Worker, client: httpx2.Client) -> None:
    assert created(videos, input_reference=("start.png", png(), "image/png")).status == "completed"
    # And as a data: URL, which the client cannot send
    reference = {"image_url": f"data:image/png;base64,{base64.b64encode(png()).decode()}"}
    answer = client.post(
        "/v1/videos", json={"prompt": "a", "seconds": "1", "spec": SMALL, "input_reference": reference}
    )
    assert videos.poll(answer.json()["id"], poll_interval_ms=50).status == "completed"
    # And what is none is refused by the name that it was sent with
    with pytest.raises(openai.BadRequestError, match="input_reference: ") as refused:
        videos.create(prompt="a", input_reference=("start.png", b"none", "image/png"))
    assert refused.value.param == "input_reference"
    assert "image:" not in refused.value.message


def test_a_whole_spec_is_sent_as_one_field(videos: Any, worker: Worker) -> None:
    # When
    spec = SMALL | {"title": "two scenes", "segments": [{"prompt": "a"}, {"prompt": "b", "transition": "cut"}]}
    video = created(videos, prompt="not used", extra_body={"spec": json.dumps(spec)})
    # Then
    assert video.status == "completed"
    assert (video.prompt, video.seconds) == ("a", f"{34 / 24:g}")


def test_a_video_is_remixed_and_extended(videos: Any, worker: Worker) -> None:
    # Given
    video = created(videos)
    # When
    remix = videos.poll(videos.remix(video.id, prompt="b").id, poll_interval_ms=50)
    reference = {"video": {"id": video.id}}  # beside an empty upload: the client sends no other form of it
    longer = videos.extend(video=b"", prompt="c", seconds="1", extra_body=reference)
    longer = videos.poll(longer.id, poll_interval_ms=50)
    # Then
    assert (remix.status, remix.prompt, remix.remixed_from_video_id) == ("completed", "b", video.id)
    assert (longer.status, longer.prompt) == ("completed", "a")
    assert longer.seconds == f"{(17 + 8 + 3 * 8) / 24:g}"


def test_an_uploaded_video_is_extended(videos: Any, worker: Worker) -> None:
    # When
    upload = ("harbour.mp4", video(numbered(30), sound=tone(30 / 24)), "video/mp4")
    made = videos.extend(video=upload, prompt="a", seconds="1", extra_body={"spec": json.dumps(SMALL)})
    # Then
    assert videos.poll(made.id, poll_interval_ms=50).status == "completed"


def test_videos_are_listed_and_deleted(videos: Any, worker: Worker, redis_server: RedisProcess) -> None:
    # Given
    made = [created(videos, prompt=text) for text in "abc"]
    # When
    first = videos.list(limit=2)
    # Then
    assert [video.id for video in first.data] == [made[2].id, made[1].id]
    assert first.has_more
    assert next(video.id for video in videos.list(limit=2, after=made[1].id).data) == made[0].id
    assert [video.id for video in videos.list(order="asc", limit=100).data][-3:] == [video.id for video in made]
    # And
    assert videos.delete(made[0].id).model_dump() == {"id": made[0].id, "deleted": True, "object": "video.deleted"}
    with pytest.raises(openai.NotFoundError):
        videos.retrieve(made[0].id)
    # And a page has the other videos, and as many as were asked for, where the spec of one is damaged
    with redis.Redis(port=redis_server.port) as client:
        key = job_keys(made[2].id, "spec")[0]
        whole = client.hget(key, "job")
        client.hset(key, "job", "damaged")
        assert [video.id for video in videos.list(limit=1).data] == [made[1].id]
        client.hset(key, "job", whole)


def test_a_video_that_is_not_finished_is_deleted(videos: Any, tmp_path: Path) -> None:
    unfinished = f"wait until {tmp_path / 'never'}"
    video = videos.create(prompt=unfinished, seconds="4", extra_body={"spec": json.dumps(SMALL)})
    # The client does not ask again for what will be the same
    with pytest.raises(openai.ConflictError, match="is not finished") as caught:
        videos._client.with_options(max_retries=2).videos.download_content(video.id)
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert videos.delete(video.id).deleted


@pytest.mark.parametrize(
    ("options", "param", "words"),
    [
        ({"prompt": " "}, "prompt", "must be text that is not blank"),
        ({"prompt": "\x7f"}, "prompt", "prompt: must not be blank"),
        ({"prompt": "a" * 8001}, "prompt", "prompt: must have at most 8000 characters"),
        ({"size": "1x1"}, "size", "must be WIDTHxHEIGHT"),
        ({"size": ""}, "size", "must be WIDTHxHEIGHT"),
        ({"size": "721x1280"}, "size", "must be even"),
        ({"seconds": "0"}, "seconds", "above 0"),
        ({"seconds": "1e9"}, "seconds", "above 0"),
        ({"input_reference": ("a.png", b"", "image/png")}, "input_reference", "the file is empty"),
        ({"extra_body": {"spec": '{"webhook": "file:///x"}'}}, "webhook", "must be an http:// or https:// URL"),
        ({"model": "sora-9"}, "model", "not a name that this server knows"),
        ({"extra_body": {"input_reference": {"file_id": "f"}}}, "input_reference", "must be an upload, or a data: URL"),
        (
            {"extra_body": {"input_reference": {"image_url": "http://127.0.0.1/a.png"}}},
            "input_reference",
            "no other URL",
        ),
        ({"extra_body": {"segments": [{"prompt": "a", "seed": 1}]}}, "segments", "send lists as one field `spec`"),
        ({"extra_body": {"spec": "{"}}, None, "spec"),
        ({"extra_body": {"spec": json.dumps({"widht": 64})}}, "widht", "did you mean width?"),
        *(
            ({"extra_body": {"spec": json.dumps(fields)}}, place, f"{place}: {ONLY_THESE}")
            for place, fields in {"image": {"image": FILE}, **NAMES_A_FILE}.items()
        ),
    ],
)
def test_errors_are_in_the_form_that_the_client_reads(
    videos: Any, options: dict[str, Any], param: str | None, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        videos.create(**({"prompt": "a"} | options))
    assert words in caught.value.message
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_json_bodies_do_as_well(client: httpx2.Client, tmp_path: Path) -> None:
    unfinished = f"wait until {tmp_path / 'never'}"
    answer = client.post("/v1/videos", json={"prompt": unfinished, "seconds": "1", "spec": SMALL})
    assert answer.json()["status"] in ("queued", "in_progress")
    assert client.delete(f"/v1/videos/{answer.json()['id']}").status_code == 200


BAD_BODIES: list[dict[str, Any]] = [
    {"prompt": 7},
    {"prompt": None},
    {"spec": [1]},
    {"spec": "{}"},
    {"spec": {"stages": "x"}},
    {"spec": {"labels": [1]}},
    {"spec": {"loras": {}}},
    {"seconds": True},
    {"seconds": {}},
    {"size": 5},
    {"model": {}},
    {"prompt": "a" * 8001},
    {"prompt": "\ud800"},
    {"image": "not used"},
    {"video": 5},
]


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/videos/extensions", "/v1/videos/{id}/remix"])
def test_fields_of_other_types_are_refused(client: httpx2.Client, path: str) -> None:
    video_id = client.post("/v1/videos", json={"prompt": "a", "seconds": "1", "spec": SMALL}).json()["id"]
    for body in BAD_BODIES:
        answer = client.post(path.format(id=video_id), content=json.dumps({"prompt": "a"} | body))
        used = "remix" not in path or "prompt" in body or "image" in body
        assert answer.status_code == 400 or not used, (body, answer.text)
    assert client.post(path.format(id=video_id), content=b"[1]").status_code == 400
    client.delete(f"/v1/videos/{video_id}")


def multipart(*parts: tuple[str, str]) -> bytes:
    made = (f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in parts)
    return "".join([*made, "--b--\r\n"]).encode()


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/videos/extensions", "/jobs"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b",
        multipart(("prompt", "a"), ("prompt", "b")),
        multipart(("spec", "{}"), ("spec", "{}")),
        multipart(("video", "a"), ("video[id]", "b")),
        multipart(("video[id]", "b"), ("video", "a")),
        multipart(*[("x", "a")] * 1000),
        multipart(("a[][b][][c]", "x")),
        multipart(("x" * 100_000, "a")),
        multipart(("spec", "[" * 100_000)),
    ],
    ids=range(10),
)
def test_odd_forms_are_refused(client: httpx2.Client, path: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(("frames", "overlap"), [(17, 9), (121, 9), (9, 1)])
@pytest.mark.parametrize("seconds", ["0.1", "1", "4", "12", "59.94"])
def test_films_are_as_long_as_asked_or_less_than_a_segment_longer(frames: int, overlap: int, seconds: str) -> None:
    # Given
    shape = SegmentShape(frames, Fraction(24), overlap)
    # When
    count = segments_for(seconds, shape)
    # Then
    assert film_frames(plan(shape, [False] * count)) >= float(seconds) * 24
    assert count == 1 or film_frames(plan(shape, [False] * (count - 1))) < float(seconds) * 24
