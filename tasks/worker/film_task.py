"""Joins the clips of a job into its film."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from celery import Task

from ltx2.media.container import MP4_MIME
from ltx2.media.film import join_film
from ltx2.media.temporary import temporary_folder
from ltx2.timeline import FilmPart
from tasks.errors import WorkFailedError
from tasks.jobs.failpoints import reach
from tasks.jobs.records import ClipRecord, FilmRecord
from tasks.jobs.state_wire import is_whole
from tasks.jobs.timing import FilmSource
from tasks.jobs.units import START_INDEX, UnitKind, WorkUnit, segments_text
from tasks.messaging.topology import FILM_TASK
from tasks.messaging.tracing import tracing
from tasks.worker import metrics
from tasks.worker.app import app
from tasks.worker.claims.failures import InputLostError, reading_from, when_there_is_room
from tasks.worker.claims.lease import Lease
from tasks.worker.claims.run_claimed import SkippedError, WaitingError, run_claimed
from tasks.worker.context import WorkerContext, process
from tasks.worker.inputs.given_sound import given_track

log = logging.getLogger(__name__)
FILM_FOLDERS = "longtake-film-"
"""Prefix of the temporary folders in which films are joined."""


@app.task(bind=True, name=FILM_TASK, throws=(WorkFailedError,))
def assemble_film(task: Task[..., Any], job_id: str, ticket: int) -> dict[str, Any]:
    """Join every clip of a job, picture copied and sound encoded once, and end the job."""
    context = process.context
    return run_claimed(task, context, job_id, WorkUnit.film(), int(ticket), lambda lease: _assemble(context, lease))


def _assemble(context: WorkerContext, lease: Lease) -> dict[str, Any]:
    reach("film claimed", lease.claim.job_id, START_INDEX)
    try:
        return _join(context, lease)
    except InputLostError as error:
        if error.index == START_INDEX:  # nobody can make it again
            raise
        _remake_lost_clips(context, lease, error)


def _join(context: WorkerContext, lease: Lease) -> dict[str, Any]:
    claim, deployment = lease.claim, context.deployment
    started = time.monotonic()
    timings, clips = deployment.jobs.timings(claim.job_id), list(deployment.jobs.clips(claim.job_id).values())
    source = deployment.jobs.film_source(claim.job_id, timings)
    parts: Sequence[FilmPart] = list(source.in_order(source.parts, timings)) if source else timings
    with lease.in_engine(), temporary_folder(FILM_FOLDERS) as folder:
        path = folder / "film.mp4"
        head = deployment.jobs.head(claim.job_id)
        track = given_track(context, head)
        joined: Iterable[bytes] = _read(context, clips)
        if source:
            joined = source.in_order(_read_source(context, source), joined)
        rate = source.rate if source else None
        info = join_film(joined, parts, path, title=head.title, track=track, rate=rate)
        data = path.read_bytes()
    reach("film joined", claim.job_id, START_INDEX)
    blob_id = when_there_is_room(lambda: deployment.store_for_job(claim.job_id, data, MP4_MIME))
    reach("film stored", claim.job_id, START_INDEX)
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
        segments=len(clips),
    )
    if not deployment.jobs.commit_film(claim, film):
        raise SkippedError("another worker holds the film now")
    reach("film committed", claim.job_id, START_INDEX)
    metrics.blob_bytes.inc(film.size)
    tracing.job_ended(claim.job_id, deployment.jobs)
    log.info("film committed", extra={"seconds": time.monotonic() - started, "bytes": len(data)})
    return {"film": blob_id, "frames": film.frames, "duration_s": film.duration_s}


def _remake_lost_clips(context: WorkerContext, lease: Lease, error: InputLostError) -> NoReturn:
    """Have the clip that cannot be read made again, and every other clip that is not whole."""
    claim, deployment = lease.claim, context.deployment
    clips = deployment.jobs.clips(claim.job_id).values()
    lost = sorted({error.index, *(clip.index for clip in clips if not is_whole(clip.blob_id, deployment.blobs))})
    log.warning("clips are made again: %s", segments_text(lost), extra={"reason": str(error)})
    if not deployment.jobs.report_lost_clips(claim, lost):
        raise SkippedError("another worker holds the film now")
    metrics.repairs.labels(str(UnitKind.CLIP), error.kind).inc(len(lost))
    for index in lost:
        deployment.publisher.publish(claim.job_id, WorkUnit.clip(index))
    raise WaitingError(f"waiting for lost clips: {segments_text(lost)}")


def _read_source(context: WorkerContext, source: FilmSource) -> Iterator[bytes]:
    for blob_id in source.clips:
        with reading_from(START_INDEX):
            data = context.deployment.blobs.get(blob_id)
        yield data


def _read(context: WorkerContext, clips: list[ClipRecord]) -> Iterator[bytes]:
    for clip in clips:
        with reading_from(clip.index):
            data = context.deployment.blobs.get(clip.blob_id)
        yield data
