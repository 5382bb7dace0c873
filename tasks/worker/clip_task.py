"""Makes a segment's clip: in the background after the segment, or again from the stored latents."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from celery import Task

from ltx2.media.clip import encode_clip
from ltx2.media.container import MP4_MIME
from ltx2.media.crossfade import crossfaded_into
from ltx2.request import SegmentOutput
from ltx2.timeline import SegmentTiming
from tasks.deployment import Deployment
from tasks.errors import MessageError, WorkFailedError
from tasks.jobs import state_wire
from tasks.jobs.failpoints import reach
from tasks.jobs.records import ClipRecord
from tasks.jobs.results import Claim
from tasks.jobs.units import START_INDEX, WorkUnit
from tasks.messaging.topology import CLIP_TASK
from tasks.spec.head import CropSpec
from tasks.worker import metrics
from tasks.worker.app import app
from tasks.worker.claims.failures import handle_failure, reading_from, when_there_is_room
from tasks.worker.claims.hand_over import hand_over
from tasks.worker.claims.lease import Lease
from tasks.worker.claims.run_claimed import run_claimed
from tasks.worker.context import WorkerContext, process
from tasks.worker.inputs.dissolve import dissolved, frames_to_dissolve
from tasks.worker.inputs.source_video import as_shown
from tasks.worker.inputs.video_after import frames_after
from tasks.worker.render_class import class_warnings

log = logging.getLogger(__name__)


@app.task(bind=True, name=CLIP_TASK, throws=(WorkFailedError,))
def render_clip(task: Task[..., Any], job_id: str, index: int, ticket: int) -> dict[str, Any]:
    """Decode the stored latents of segment `index` again and make its clip."""
    context = process.context
    return run_claimed(
        task, context, job_id, WorkUnit.clip(int(index)), int(ticket), lambda lease: _rebuild(context, lease)
    )


def _rebuild(context: WorkerContext, lease: Lease) -> dict[str, Any]:
    from ltx2.state.arrays import decode_latents

    claim = lease.claim
    handoff = claim.own
    if handoff is None or handoff.latents is None:
        raise MessageError(f"segment {claim.index} of job {claim.job_id} is not committed, so it has no clip")
    with reading_from(claim.index, claim.own_take):
        latents = context.deployment.blobs.get(handoff.latents)
    following, after = _read_following(context, claim), frames_after(context, claim)
    timing = claim.timing
    started = time.monotonic()
    with lease.in_engine():
        engine = context.engines.decoder(str(claim.head.model), text_encoder=claim.head.text_encoder)
        for line in class_warnings(claim, context.engines.render_class):
            log.warning("made anew with a warning", extra={"reason": line})
        frames, sound = engine.decode(*decode_latents(latents), handoff.decoding)
        frames = dissolved(frames, frames_to_dissolve(context, claim, engine))
        if following is not None and claim.other is not None and claim.following is not None:
            head, _ = engine.decode(*decode_latents(following), claim.other.decoding)
            frames = crossfaded_into(frames, head[: claim.head.planned(claim.following).shape.overlap])
        if after is not None:
            frames = crossfaded_into(frames, after)
        frames, timing = as_shown(claim, frames, timing, _frames_before(context, claim))
        data = encoded(frames, sound, engine.audio_rate, timing, claim.head.crop)
    _commit_clip(context, claim, data, timing, started)
    return {"clip": claim.index}


def _read_following(context: WorkerContext, claim: Claim) -> bytes | None:
    """The latents of the next segment, if the end of this one's clip is crossfaded with its first frames."""
    if claim.other is None or claim.other.latents is None:
        return None
    with reading_from(claim.index + 1, claim.other_take):
        return context.deployment.blobs.get(claim.other.latents)


def _frames_before(context: WorkerContext, claim: Claim) -> Any:
    """The frames of a video that a job's first segment extends; None for other segments."""
    if not claim.head.continues_video or claim.index > 0 or claim.previous is None:
        return None
    with reading_from(START_INDEX):
        return state_wire.decode(claim.previous.state, context.deployment.blobs).video_frames


def make_clip_in_background(context: WorkerContext, claim: Claim, output: SegmentOutput, timing: SegmentTiming) -> None:
    """Queue the clip of a segment for the background thread; blocks while two clips are queued or being made."""
    lease = Lease(context.deployment.jobs, claim, context.settings.lease_s, partial(hand_over, context))
    with lease.until_handed_over():
        context.background.add(_ClipWork(context, lease, output.frames, output.sound, output.audio_rate, timing))


@dataclass(frozen=True, eq=False)
class _ClipWork:
    """The clip of a segment that this process has just rendered, under its own lease."""

    context: WorkerContext
    lease: Lease
    frames: Any
    sound: Any
    audio_rate: int
    timing: SegmentTiming

    def run(self) -> None:
        claim = self.lease.claim
        with self.context.logging(claim):
            try:
                if not self.lease.renew():  # the job was stopped, or the segment discarded, while the clip waited
                    metrics.leases_lost.inc()
                    return
                with self.context.tracing(claim):
                    started = time.monotonic()
                    encode = self.context.clips.encode
                    data = encoded(self.frames, self.sound, self.audio_rate, self.timing, claim.head.crop, encode)
                    _commit_clip(self.context, claim, data, self.timing, started)
            except Exception as error:
                handle_failure(self.context, claim, error)
            finally:
                self.lease.end()

    def release(self) -> None:
        with Deployment(self.context.settings) as impatient:  # the process ends, it cannot wait for a server
            impatient.jobs.release(self.lease.claim)


def encoded(
    frames: Any,
    sound: Any,
    audio_rate: int,
    timing: SegmentTiming,
    crop: CropSpec | None,
    encode: Callable[..., bytes] = encode_clip,
) -> bytes:
    """The clip of a segment: its new frames, or their middle, and its whole sound. encode: `encode_clip`, anywhere."""
    frames = frames[timing.skipped_frames :]
    if crop is not None:
        top, left = (frames.shape[1] - crop.height) // 2, (frames.shape[2] - crop.width) // 2
        frames = frames[:, top : top + crop.height, left : left + crop.width]
    return encode(
        frames,
        sound,
        fps=timing.shape.fps,
        audio_rate=audio_rate,
        picture_start=timing.picture_start,
    )


def stored_clip(
    context: WorkerContext, claim: Claim, data: bytes, timing: SegmentTiming, *, take: int = 0, next_take: int = -1
) -> ClipRecord:
    """Store a clip of the claim's segment. take, next_take: those that it shows, see `ClipRecord`."""
    blob_id = when_there_is_room(lambda: context.deployment.store_for_job(claim.job_id, data, MP4_MIME))
    return ClipRecord(
        index=claim.index,
        blob_id=blob_id,
        frames=timing.new_frames,
        size=len(data),
        take=take,
        next_take=next_take,
        dissolves_from=claim.dissolves_from,
    )


def _commit_clip(context: WorkerContext, claim: Claim, data: bytes, timing: SegmentTiming, started: float) -> None:
    """Store and commit a clip; the last one publishes the film. started: when its work began, `time.monotonic`."""
    deployment = context.deployment
    reach("clip encoded", claim.job_id, claim.index)
    record = stored_clip(context, claim, data, timing, take=claim.own_take, next_take=claim.other_take)
    reach("clip stored", claim.job_id, claim.index)
    commit = deployment.jobs.commit_clip(claim, record)
    if commit.accepted:
        reach("clip committed", claim.job_id, claim.index)
        metrics.clip_made(len(data), time.monotonic() - started)
        log.info("clip committed", extra={"seconds": time.monotonic() - started, "bytes": len(data)})
    if commit.film is not None:
        deployment.publisher.send(claim.job_id, commit.film)
