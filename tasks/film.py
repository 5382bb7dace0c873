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
from tasks.failures import InputLostError, give_up, reading_from, when_there_is_room
from tasks.handoff import is_whole
from tasks.lease import Lease
from tasks.points import reach
from tasks.reading import check_job_id
from tasks.records import FILM_UNIT, FROM_OUTSIDE, Claim, ClipRecord, FilmRecord
from tasks.runtime import Runtime, runtime

log = logging.getLogger(__name__)


@app.task(name=FILM_TASK)
def assemble_film(job_id: str, ticket: int) -> dict[str, Any]:
    """Join every clip of a job, picture copied and sound encoded once, and end the job."""
    room = runtime()
    claim = room.jobs.claim_unit(check_job_id(job_id), FILM_UNIT, FROM_OUTSIDE, int(ticket), room.worker, FILMS)
    if isinstance(claim, str):
        return {"skipped": claim}
    reach("film claimed", job_id, FROM_OUTSIDE)
    with Lease(room.jobs, claim, room.settings.lease_s) as lease:
        try:
            return _join(room, lease)
        except InputLostError as error:
            return _reopen(room, claim, error)
        except SystemExit:
            room.jobs.give_up(claim)
            raise
        except Exception as error:
            return give_up(room, claim, error)


def _join(room: Runtime, lease: Lease) -> dict[str, Any]:
    claim = lease.claim
    timings, clips = film_plan(room, claim.job_id)
    with lease.in_engine(), tempfile.TemporaryDirectory(prefix="longtake-") as folder:
        path = Path(folder) / "film.mp4"
        info = join_film(_read(room, clips), timings, path)
        data = path.read_bytes()
    reach("film joined", claim.job_id, FROM_OUTSIDE)
    blob_id = when_there_is_room(lambda: room.keep(claim.job_id, data, CLIP_MIME))
    reach("film stored", claim.job_id, FROM_OUTSIDE)
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
    reach("film committed", claim.job_id, FROM_OUTSIDE)
    return {"film": blob_id, "frames": film.frames, "duration_s": film.duration_s}


def _reopen(room: Runtime, claim: Claim, error: InputLostError) -> dict[str, Any]:
    """A clip cannot be read: have it made again, and with it every other one that is not whole."""
    clips = room.jobs.clips(claim.job_id).values()
    lost = sorted({error.index, *(clip.index for clip in clips if not is_whole(clip.blob_id, room.blobs))})
    log.warning("job %s: the clips of segments %s are made again: %s", claim.job_id, lost, error)
    if room.jobs.reopen_clips(claim, lost):
        for index in lost:
            room.publisher.clip(claim.job_id, index)
    return {"clips_lost": lost}


def film_plan(room: Runtime, job_id: str) -> tuple[list[SegmentTiming], list[ClipRecord]]:
    """Where every segment sits in the film, from frame 0, and its clip."""
    return room.jobs.timings(job_id), list(room.jobs.clips(job_id).values())


def _read(room: Runtime, clips: list[ClipRecord]) -> Iterator[bytes]:
    for clip in clips:
        with reading_from(clip.index):
            data = room.blobs.get(clip.blob_id)
        yield data
