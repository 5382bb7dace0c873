"""Admission: reserves blob bytes for a whole job before its first segment.

Otherwise two jobs could each fill half of the blob store and block each other.
"""

from __future__ import annotations

import logging

import redis

from blobstore import ManagedBlobStore
from ltx2.timeline import SegmentShape, latent_frames
from tasks.errors import RoomError, ServerError
from tasks.jobs.results import AdmissionOutcome
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState
from tasks.messaging.publisher import Publisher
from tasks.settings import Settings
from tasks.spec.schema import SPATIAL_COMPRESSION, JobHead, JobSpec

log = logging.getLogger(__name__)
# A PNG of noise is as large as its pixels. x264 with crf 16 takes 0.05 to 0.3 bits per pixel of camera footage.
PNG_BYTES_PER_PIXEL = 3.1
VIDEO_BITS_PER_PIXEL = 1.0
VIDEO_LATENT_CHANNELS, AUDIO_LATENT_VALUES, LATENT_BYTES = 128, 8 * 16, 4
SOUND_BYTES_PER_S = 48_000 * 2 * 3
METADATA_BYTES = 16 * 1024


def estimate_bytes(spec: JobSpec, stored_bytes: int = 0) -> int:
    """Estimate the bytes of all blobs of a job while it runs. stored_bytes: its image, or the state that it continues.

    Counts its image, the state, latents and clip of each segment, and the film. An upper bound, except for pictures
    that compress worse than busy footage, such as noise.
    """
    handoff = _handoff_bytes(spec)
    image = spec.width * spec.height * PNG_BYTES_PER_PIXEL if spec.image else 0
    # metadata may make a state larger; the segments pass it on, and it is stored once more with what they add
    unusual = max(0, stored_bytes - (image or handoff))
    return round(image + handoff + 2 * unusual) + segment_bytes(spec, len(spec.segments))


def segment_bytes(head: JobHead, count: int) -> int:
    """Estimate the bytes of the states, latents and clips of so many segments, and of their part of the film."""
    pixels = head.width * head.height
    latents = VIDEO_LATENT_CHANNELS * latent_frames(head.frames) * (pixels // SPATIAL_COMPRESSION**2) * LATENT_BYTES
    seconds = float(head.frames / head.shape.fps + 4)
    clip = head.frames * pixels * VIDEO_BITS_PER_PIXEL / 8 + seconds * SOUND_BYTES_PER_S
    return round(count * (_handoff_bytes(head) + latents + 2 * clip))


def _handoff_bytes(head: JobHead) -> float:
    pixels = head.overlap * head.width * head.height
    return pixels * PNG_BYTES_PER_PIXEL + 2 * _audio_latents_bytes(head.shape) + METADATA_BYTES


def _audio_latents_bytes(shape: SegmentShape) -> int:
    return AUDIO_LATENT_VALUES * LATENT_BYTES * max(shape.first_audio_latents, shape.continued_audio_latents)


def check_room(needs_bytes: int, budget_bytes: int | None) -> None:
    """Refuse a job that needs more than the whole budget.

    Raises:
        RoomError: names the need and the budget.
    """
    if budget_bytes is not None and needs_bytes > budget_bytes:
        raise RoomError(
            f"the job needs about {needs_bytes:,} bytes of blobs and LONGTAKE_BLOB_BUDGET_BYTES is {budget_bytes:,}; "
            "raise the budget, or split the job and start each part from the state of the one before"
        )


def admit_waiting(jobs: JobStore, publisher: Publisher, budget_bytes: int | None) -> None:
    """Admit and publish every waiting job that fits in the budget, oldest first."""
    while True:
        admission = jobs.admit(budget_bytes)
        if admission.outcome == AdmissionOutcome.WAIT:
            return
        if admission.outcome == AdmissionOutcome.NEVER:
            try:
                check_room(admission.needs_bytes, budget_bytes)
            except RoomError as error:
                jobs.stop(admission.job_id, JobState.FAILED, str(error))
        elif admission.outcome == AdmissionOutcome.ADMITTED:
            log.info("admitted", extra={"job": admission.job_id, "bytes": admission.needs_bytes})
            publisher.publish_due(admission.job_id)


def admit_now(jobs: JobStore, publisher: Publisher, settings: Settings) -> None:
    """Admit waiting jobs at once, without a blob budget.

    With one, or during an outage, a worker admits them within seconds.
    """
    if jobs.budget_bytes() or settings.blob_budget_bytes:
        return
    try:
        admit_waiting(jobs, publisher, None)
    except (ServerError, redis.RedisError) as error:
        log.warning("the job is queued, but its first message is not published yet: %s", error)


def settle_ended(jobs: JobStore, blobs: ManagedBlobStore) -> None:
    """Reduce the reservations of ended jobs to what their blobs take.

    Raises:
        BlobStoreError: the blob store cannot be read; the remaining reservations are unchanged.
    """
    for job_id in jobs.unsettled():
        jobs.settle(job_id, blobs.usage(job_id))
