"""Joining the clips of a job into its film."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ltx2.media.film import join_film
from ltx2.timeline import SegmentTiming
from tasks.failpoints import reach
from tasks.jobs.keys import check_job_id
from tasks.jobs.queues import FILMS
from tasks.jobs.records import FILM_UNIT, FROM_OUTSIDE, Claim, ClipRecord, FilmRecord
from tasks.jobs.state_wire import is_whole
from tasks.messaging.topology import FILM_TASK
from tasks.worker.app import app
from tasks.worker.clip_task import CLIP_MIME
from tasks.worker.context import WorkerContext, process
from tasks.worker.failures import InputLostError, give_up, reading_from, when_there_is_room
from tasks.worker.lease import Lease

log = logging.getLogger(__name__)


@app.task(name=FILM_TASK)
def assemble_film(job_id: str, ticket: int) -> dict[str, Any]:
    """Join every clip of a job, picture copied and sound encoded once, and end the job."""
    context = process.context
    claim = context.deployment.jobs.claim_unit(
        check_job_id(job_id), FILM_UNIT, FROM_OUTSIDE, int(ticket), context.worker, FILMS
    )
    if isinstance(claim, str):
        return {"skipped": claim}
    reach("film claimed", job_id, FROM_OUTSIDE)
    with Lease(context.deployment.jobs, claim, context.settings.lease_s) as lease:
        try:
            return _join(context, lease)
        except InputLostError as error:
            return _reopen(context, claim, error)
        except SystemExit:
            context.deployment.jobs.give_up(claim)
            raise
        except Exception as error:
            return give_up(context, claim, error)


def _join(context: WorkerContext, lease: Lease) -> dict[str, Any]:
    claim = lease.claim
    timings, clips = film_plan(context, claim.job_id)
    with lease.in_engine(), tempfile.TemporaryDirectory(prefix="longtake-") as folder:
        path = Path(folder) / "film.mp4"
        info = join_film(_read(context, clips), timings, path)
        data = path.read_bytes()
    reach("film joined", claim.job_id, FROM_OUTSIDE)
    blob_id = when_there_is_room(lambda: context.deployment.store_for_job(claim.job_id, data, CLIP_MIME))
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
    if not context.deployment.jobs.commit_film(claim, film):
        return {"skipped": "another worker holds the film now"}
    reach("film committed", claim.job_id, FROM_OUTSIDE)
    return {"film": blob_id, "frames": film.frames, "duration_s": film.duration_s}


def _reopen(context: WorkerContext, claim: Claim, error: InputLostError) -> dict[str, Any]:
    """A clip cannot be read: have it made again, and with it every other one that is not whole."""
    clips = context.deployment.jobs.clips(claim.job_id).values()
    lost = sorted(
        {error.index, *(clip.index for clip in clips if not is_whole(clip.blob_id, context.deployment.blobs))}
    )
    log.warning("job %s: the clips of segments %s are made again: %s", claim.job_id, lost, error)
    if context.deployment.jobs.reopen_clips(claim, lost):
        for index in lost:
            context.deployment.publisher.clip(claim.job_id, index)
    return {"clips_lost": lost}


def film_plan(context: WorkerContext, job_id: str) -> tuple[list[SegmentTiming], list[ClipRecord]]:
    """Where every segment sits in the film, from frame 0, and its clip."""
    return context.deployment.jobs.timings(job_id), list(context.deployment.jobs.clips(job_id).values())


def _read(context: WorkerContext, clips: list[ClipRecord]) -> Iterator[bytes]:
    for clip in clips:
        with reading_from(clip.index):
            data = context.deployment.blobs.get(clip.blob_id)
        yield data
