"""Two workers render parts of a film by the small model in parallel: the film is that of one worker, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.jobs.records import Handoff
from tasks.settings import Settings
from tests.conftest import RedisProcess, Worker, wait_until
from tests.tasks.conftest import job_store

CIRCLE = "a red circle moves left over a blue background, low hum"
SQUARE = "a green square moves right over a white background, high beep"
SEGMENTS = [{"prompt": CIRCLE}, {"prompt": CIRCLE}, {"prompt": SQUARE, "transition": "cut"}, {"prompt": SQUARE}]
SPEC = {"model": "shapes", "width": 96, "height": 64, "frames": 25, "seed": 3, "segments": SEGMENTS}


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Settings]:
    """A deployment with two workers that have nothing to do."""
    server = RedisProcess(tmp_path_factory.mktemp("redis"))
    settings = Settings(redis_url=server.url, home=home, model="shapes", device="cpu", reconcile_s=0.25)
    folder = tmp_path_factory.mktemp("workers")
    workers = [Worker(settings, folder / f"worker-{number}.log") for number in range(2)]
    wait_until(lambda: idle(settings) == 2, what="two idle workers")
    yield settings
    for worker in workers:
        worker.end()
    server.stop()


def idle(settings: Settings) -> int:
    return sum(worker.is_idle for worker in job_store(settings).workers().living)


def rendered(settings: Settings, **changes: Any) -> tuple[str, list[Handoff]]:
    """The hash of the film, and what was rendered of it."""
    with submit(SPEC | changes, settings=settings) as job:
        return hash_of(job), job_store(settings).handoffs(job.id)


def hash_of(job: Job) -> str:
    film = job.wait().status().film
    assert film
    return film.sha256


def overlap(one: Handoff, other: Handoff) -> bool:
    """Whether two segments were in work at the same time, by two workers."""
    is_same_time = one.engine_started < other.engine_ended and other.engine_started < one.engine_ended
    return is_same_time and one.worker != other.worker


def test_parts_in_parallel_give_the_same_film(two_workers: Settings) -> None:
    # Given / When
    film, made = rendered(two_workers)
    wait_until(lambda: idle(two_workers) == 2, what="two idle workers")
    expected, in_order = rendered(two_workers, parallel=False)
    # Then
    assert film == expected
    assert [(one.state, one.latents, one.first_frame) for one in made] == [
        (one.state, one.latents, one.first_frame) for one in in_order
    ]
    assert any(overlap(one, other) for one, other in product(made[:2], made[2:]))
    assert not any(overlap(one, other) for one, other in product(in_order[:2], in_order[2:]))
