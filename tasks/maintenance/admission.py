"""Admission: reserves blob bytes for a whole job before its first segment.

Otherwise two jobs could each fill half of the blob store and block each other.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction

import redis

from blobstore import ManagedBlobStore
from ltx2.timeline import SegmentShape, handed_on, latent_frames
from tasks.errors import RecordError, RoomError, ServerError
from tasks.jobs.results import AdmissionOutcome
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState
from tasks.messaging.publisher import Publisher
from tasks.messaging.tracing import tracing
from tasks.settings import Settings
from tasks.spec.head import SPATIAL_COMPRESSION, JobHead
from tasks.spec.images import image_paths
from tasks.spec.schema import JobSpec
from tasks.spec.segments import SegmentSpec

log = logging.getLogger(__name__)
# A PNG of noise is as large as its pixels. x264 with crf 16 takes 0.05 to 0.3 bits per pixel of camera footage.
PNG_BYTES_PER_PIXEL = 3.1
VIDEO_BITS_PER_PIXEL = 1.0
VIDEO_LATENT_CHANNELS, AUDIO_LATENT_VALUES, LATENT_BYTES = 128, 8 * 16, 4
SOUND_BYTES_PER_S = 48_000 * 2 * 3
METADATA_BYTES = 16 * 1024
MOST_CLIPS_OF_CHOICE = 5


def estimate_bytes(spec: JobSpec, stored_bytes: int = 0, source_frames: int = 0) -> int:
    """Estimate the bytes of all blobs of a job while it runs. stored_bytes: its images, and the state it continues.

    source_frames: of a video with which the film begins. Counts its images, the state, latents and clip of each
    segment, the clips of that video, and the film. An upper bound, except for pictures that compress worse than busy
    footage, such as noise.
    """
    planned = [spec.planned(segment) for segment in spec.segments]
    first, pixels = planned[0].shape if planned else spec.shape, spec.width * spec.height
    handoff = _handoff_bytes(first, first, first.overlap, pixels)
    image = len(set(image_paths(spec).values())) * pixels * PNG_BYTES_PER_PIXEL
    # metadata may make a state larger; the segments pass it on, and it is stored once more with what they add
    unusual = max(0, stored_bytes - (image or handoff))
    source = _media_bytes(source_frames, source_frames / spec.shape.fps, pixels)
    return round(image + handoff + 2 * unusual + 2 * source) + chain_bytes(spec, spec.segments)


def chain_bytes(head: JobHead, segments: Sequence[SegmentSpec]) -> int:
    """Estimate the bytes of these segments of a job, with the renderings that are not chosen."""
    pixels, (_, most) = head.width * head.height, head.renderings
    shapes = [head.planned(segment).shape for segment in segments if not segment.is_new_scene]
    others = sum(_rendering_bytes(shape, shape, shape.overlap, pixels) for shape in shapes) if most > 1 else 0
    return segment_bytes(head, segments) + round((most - 1) * others)


def segment_bytes(head: JobHead, segments: Sequence[SegmentSpec]) -> int:
    """Estimate the bytes of the states, latents and clips of these segments, and of their part of the film."""
    planned = [head.planned(segment) for segment in segments]
    kinds = Counter(
        (before.shape, one.shape, handed_on(one, following)[0] or one.shape.overlap)
        for before, one, following in zip(planned[:1] + planned, planned, [*planned[1:], None], strict=False)
    )
    pixels = head.width * head.height
    return round(sum(count * _segment_bytes(*kind, pixels) for kind, count in kinds.items()))


def choice_bytes(head: JobHead, segments: Sequence[SegmentSpec], source_frames: int = 0) -> int:
    """Estimate the bytes of what a choice of a take makes again: some clips, and the film of these segments.

    The clips: around both ends of the take, and of another one that it replaces, and one that dissolves from it.
    source_frames: of a video with which the film begins.
    """
    pixels = head.width * head.height
    clips = [_clip_bytes(head.planned(segment).shape, pixels) for segment in segments]
    source = _media_bytes(source_frames, source_frames / head.shape.fps, pixels)
    return round(MOST_CLIPS_OF_CHOICE * max(clips, default=0) + sum(clips) + source)


def _clip_bytes(shape: SegmentShape, pixels: int) -> float:
    return _media_bytes(shape.frames, shape.frames / shape.fps + 4, pixels)


def _media_bytes(frames: int, seconds: Fraction, pixels: int) -> float:
    return frames * pixels * VIDEO_BITS_PER_PIXEL / 8 + float(seconds) * SOUND_BYTES_PER_S


def _segment_bytes(before: SegmentShape, shape: SegmentShape, next_overlap: int, pixels: int) -> float:
    """What a segment leaves: a state of so many frames, its latents, and its clip, which the film copies.

    before: the shape of the segment before it.
    """
    return _rendering_bytes(before, shape, next_overlap, pixels) + _clip_bytes(shape, pixels)


def _rendering_bytes(before: SegmentShape, shape: SegmentShape, next_overlap: int, pixels: int) -> float:
    """The same, without what the film copies."""
    latent_pixels = pixels // SPATIAL_COMPRESSION**2
    latents = VIDEO_LATENT_CHANNELS * latent_frames(shape.frames) * latent_pixels * LATENT_BYTES
    return _handoff_bytes(before, shape, next_overlap, pixels) + latents + _clip_bytes(shape, pixels)


def _handoff_bytes(before: SegmentShape, shape: SegmentShape, frames: int, pixels: int) -> float:
    audio = max(shape.first_audio_latents, shape.continued_audio_latents, shape.audio_latents_after(before))
    return frames * pixels * PNG_BYTES_PER_PIXEL + 2 * AUDIO_LATENT_VALUES * LATENT_BYTES * audio + METADATA_BYTES


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
                tracing.job_ended(admission.job_id, jobs)
        elif admission.outcome == AdmissionOutcome.DAMAGED:
            log.error("its record is damaged: needs_bytes", extra={"job": admission.job_id})
            with suppress(RecordError):  # of a record that is no hash, the log line is all that can be done
                jobs.stop(admission.job_id, JobState.FAILED, "its record is damaged: needs_bytes")
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


def settle_ended(jobs: JobStore, blobs: ManagedBlobStore, settled: set[tuple[float, str]]) -> None:
    """Reduce the reservations of ended jobs to what their blobs take. settled: see `JobReader.unsettled`.

    Raises:
        BlobStoreError: the blob store cannot be read; the remaining reservations are unchanged.
    """
    for job_id, reserved in jobs.unsettled(settled).items():
        jobs.settle(job_id, blobs.usage(job_id), reserved=reserved)
