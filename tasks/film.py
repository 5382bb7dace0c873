"""Joining the clips of a job into its film."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ltx2.film import join_film
from ltx2.timeline import SegmentTiming
from tasks.application import app
from tasks.broker import FILM_TASK, FILMS
from tasks.clip import CLIP_MIME
from tasks.failures import InputLostError, give_up, reading_from
from tasks.jobs import check_job_id
from tasks.lease import Lease
from tasks.records import FILM_UNIT, FROM_OUTSIDE, Claim, ClipRecord, FilmRecord, unpack_timing
from tasks.runtime import Runtime, runtime

log = logging.getLogger(__name__)


@app.task(name=FILM_TASK)
def assemble_film(job_id: str, ticket: int) -> dict[str, Any]:
    """Join every clip of a job, picture copied and sound encoded once, and end the job."""
    room = runtime()
    claim = room.jobs.claim_unit(check_job_id(job_id), FILM_UNIT, FROM_OUTSIDE, int(ticket), room.worker, FILMS)
    if isinstance(claim, str):
        return {"skipped": claim}
    with Lease(room.jobs, claim, room.settings.lease_s):
        try:
            return _join(room, claim)
        except InputLostError as error:
            log.warning("job %s: %s", job_id, error)
            if room.jobs.reopen_clip(claim, error.index):
                room.publisher.clip(job_id, error.index)
            return {"clip_lost": error.index}
        except SystemExit:
            room.jobs.give_up(claim)
            raise
        except Exception as error:
            return give_up(room, claim, error)


def _join(room: Runtime, claim: Claim) -> dict[str, Any]:
    timings, clips = film_plan(room, claim.job_id)
    with tempfile.TemporaryDirectory(prefix="longtake-") as folder:
        path = Path(folder) / "film.mp4"
        info = join_film(_read(room, clips), timings, path)
        data = path.read_bytes()
    blob_id = room.keep(claim.job_id, data, CLIP_MIME)
    film = FilmRecord(
        blob_id=blob_id,
        size=len(data),
        sha256=info.sha256,
        width=info.width,
        height=info.height,
        fps=str(info.fps),
        frames=info.frames,
        duration_s=info.duration_s,
        audio_sample_rate=info.audio_sample_rate,
        audio_samples=info.audio_samples,
    )
    if not room.jobs.commit_film(claim, film):
        return {"skipped": "another worker holds the film now"}
    return {"film": blob_id, "frames": film.frames, "duration_s": film.duration_s}


def film_plan(room: Runtime, job_id: str) -> tuple[list[SegmentTiming], list[ClipRecord]]:
    """Where every segment sits in the film, from frame 0, and its clip."""
    shape = room.jobs.head(job_id).shape
    clips = list(room.jobs.clips(job_id).values())
    timings = [unpack_timing(shape, handoff.timing) for handoff in room.jobs.handoffs(job_id)]
    return timings, clips


def _read(room: Runtime, clips: list[ClipRecord]) -> Iterator[bytes]:
    for clip in clips:
        with reading_from(clip.index):
            data = room.blobs.get(clip.blob_id)
        yield data
