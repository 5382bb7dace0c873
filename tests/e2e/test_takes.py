"""Retakes by the small trained model: both joins are within bounds, and no other clip changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.settings import Settings
from tests.conftest import RedisProcess, Worker

HUM = "a red circle moves left over a blue background, low hum"
BEEP = HUM.replace("low hum", "high beep")
ANOTHER_WORLD = "a green square moves right over a white background, low hum"
SPEC = {"model": "shapes", "width": 192, "height": 128, "frames": 25, "seed": 3, "segments": [{"prompt": HUM}] * 3}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Job]:
    """A job of three segments that is done, and a worker."""
    server = RedisProcess(tmp_path_factory.mktemp("redis"))
    settings = Settings(redis_url=server.url, home=home, model="shapes", device="cpu")
    worker = Worker(settings, tmp_path_factory.mktemp("worker") / "worker.log")
    with submit(SPEC, settings=settings) as job:
        yield job.wait()
    worker.end()
    server.stop()


def clips_of(job: Job) -> list[str]:
    return [segment["blobs"]["clip"] for segment in job.summary()["segments"]]


def shown(job: Job, segment: int, prompt: str | None) -> list[str]:
    """Have the film show a new take of a segment; returns its clips."""
    [take] = job.retake(segment, prompt=prompt)
    job.wait().choose(segment, take)
    job.wait()
    return clips_of(job)


@pytest.mark.parametrize(("segment", "prompt"), [(0, None), (1, BEEP), (2, BEEP)])
def test_a_retake_joins_on_both_sides(film: Job, tmp_path: Path, segment: int, prompt: str | None) -> None:
    # Given
    before = clips_of(film)
    # When
    after = shown(film, segment, prompt)
    # Then
    assert [index for index in range(3) if before[index] != after[index]] == [segment]
    assert film.write_report(tmp_path) == []
    # When / Then the first take is back
    film.choose(segment, 0)
    assert clips_of(film.wait()) == before


def test_a_retake_of_another_world_leaps_and_the_report_says_so(film: Job, tmp_path: Path) -> None:
    shown(film, 1, ANOTHER_WORLD)
    assert any("segment 1" in fault for fault in film.write_report(tmp_path))
    film.choose(1, 0)
    film.wait()
