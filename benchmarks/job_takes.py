"""Retakes through a deployment: a Redis server, one worker, `retake` and `choose`. Part of benchmarks/takes.py."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ltx2.quality.film_reader import film_pieces, film_sound
from ltx2.timeline import sound_spans
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.settings import Settings
from tests.conftest import RedisProcess, Worker
from training import takes
from training.films import Film
from training.world import FPS, FRAMES, HEIGHT, WIDTH

SEGMENTS = 4


@dataclass(frozen=True, slots=True)
class Retake:
    """What became of a film when a take of a segment was chosen, and then the first one again.

    others_kept: whether every other clip has its bytes. own_kept: whether the clip of the segment has. before, after:
    the film without and with the take. clicking: with the take, the sound negated from that segment on. spoilt: with
    the halves of that segment's picture exchanged, and its sound an octave higher. restored: whether the film has its
    first bytes when the first take is chosen again.
    """

    others_kept: bool
    own_kept: bool
    before: takes.Judgement
    after: takes.Judgement
    clicking: takes.Judgement
    spoilt: takes.Judgement
    restored: bool


def retakes(model: str, count: int) -> Iterator[Retake]:
    """Retakes of a segment in the middle, three in each world: another seed, the other tone, the opposite way."""
    with deployment(model) as settings:
        for number in range(count):
            world, kind = divmod(number, 3)
            scene, index = takes.tonal_world(world), 1 + world % 2
            if kind == 0:
                job = submit(spec_of(scene.prompt, 1000 * world), settings=settings).wait()
            prompt = (scene, takes.with_other_tone(scene), takes.other_way(scene))[kind].prompt
            yield retaken(job, index, prompt, 777 + number)


@contextmanager
def deployment(model: str) -> Iterator[Settings]:
    """A Redis server and a worker on this machine's CPU."""
    with tempfile.TemporaryDirectory(prefix="longtake-") as folder:
        server = RedisProcess(Path(folder))
        try:
            settings = Settings(redis_url=server.url, model=model, device="cpu")
            worker = Worker(settings, Path(folder) / "worker.log").ready()
            yield settings
            worker.stop()
        finally:
            server.stop()


def spec_of(prompt: str, seed: int) -> dict[str, object]:
    shape = {"width": WIDTH, "height": HEIGHT, "frames": FRAMES, "fps": FPS, "overlap": takes.SHAPE.overlap}
    return {**shape, "seed": seed, "segments": [{"prompt": prompt}] * SEGMENTS}


def retaken(job: Job, index: int, prompt: str, seed: int) -> Retake:
    """Retake a segment of a film, choose the take, and choose the first one again."""
    before, clips, first = film_of(job), clips_of(job), film_bytes(job)
    (number,) = job.retake(index, prompt=prompt, seed=seed)
    job.wait()
    job.choose(index, number)
    after, others = film_of(job.wait()), clips_of(job)
    job.choose(index, 0)
    restored = film_bytes(job.wait()) == first
    same = [one == other for one, other in zip(clips, others, strict=True)]
    return Retake(
        all(same[:index] + same[index + 1 :]),
        same[index],
        takes.judged(before.continuity(), index),
        takes.judged(after.continuity(), index),
        takes.judged(takes.with_click(after, index).continuity(), index),
        takes.judged(spoilt(after, index).continuity(), index),
        restored,
    )


def spoilt(film: Film, index: int) -> Film:
    """The film with the halves of a segment's picture exchanged, and its sound an octave higher."""
    pieces, sound = [*film.pieces], film.sound.copy()
    pieces[index] = np.roll(pieces[index], len(pieces[index]) // 2, axis=0)
    begin, end = (span.film_start for span in sound_spans(film.timings, film.rate)[index : index + 2])
    fast = sound[:, begin:end:2]
    sound[:, begin:end] = np.concatenate([fast, fast], axis=1)[:, : end - begin]
    return replace(film, pieces=pieces, sound=sound)


def film_of(job: Job) -> Film:
    data, timings = film_bytes(job), job._deployment.jobs.timings(job.id)
    sound, rate = film_sound(data, timings)
    pieces = [piece.copy() for piece in film_pieces(data, timings)]
    return Film(pieces, sound, rate, timings)


def film_bytes(job: Job) -> bytes:
    film = job.status().film
    assert film is not None
    return job._deployment.blobs.get(film.blob_id)


def clips_of(job: Job) -> list[bytes]:
    return [job.clip(index) for index in range(SEGMENTS)]
