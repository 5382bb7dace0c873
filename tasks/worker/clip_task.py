"""Making a segment's clip: beside the next segment, or anew from the stored latents when it was lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ltx2.media.clip import encode_clip
from ltx2.request import SegmentOutput
from ltx2.timeline import SegmentTiming
from tasks.errors import MessageError
from tasks.failpoints import reach
from tasks.jobs.connection import connect
from tasks.jobs.keys import check_job_id
from tasks.jobs.queues import CLIPS
from tasks.jobs.records import Claim, ClipRecord, clip_unit, unpack_timing
from tasks.jobs.store import JobStore
from tasks.messaging.topology import CLIP_TASK
from tasks.worker.app import app
from tasks.worker.context import WorkerContext, process
from tasks.worker.failures import InputLostError, give_up, reading_from, repair, when_there_is_room
from tasks.worker.lease import Lease

CLIP_MIME = "video/mp4"


@app.task(name=CLIP_TASK)
def render_clip(job_id: str, index: int, ticket: int) -> dict[str, Any]:
    """Decode the stored latents of segment `index` again and make its clip."""
    context = process.context
    unit = clip_unit(int(index))
    claim = context.deployment.jobs.claim_unit(
        check_job_id(job_id), unit, int(index), int(ticket), context.worker, CLIPS
    )
    if isinstance(claim, str):
        return {"skipped": claim}
    with Lease(context.deployment.jobs, claim, context.settings.lease_s) as lease:
        try:
            return _rebuild(context, lease)
        except InputLostError as error:
            return repair(context, claim, error)
        except SystemExit:
            context.deployment.jobs.give_up(claim)
            raise
        except Exception as error:
            return give_up(context, claim, error)


def _rebuild(context: WorkerContext, lease: Lease) -> dict[str, Any]:
    from ltx2.state.arrays import decode_latents

    claim = lease.claim
    head, handoff = (
        context.deployment.jobs.head(claim.job_id),
        context.deployment.jobs.handoff(claim.job_id, claim.index),
    )
    if handoff is None or handoff.latents is None:
        raise MessageError(f"segment {claim.index} of job {claim.job_id} is not committed, and its clip cannot be made")
    engine = context.engines.decoder(str(head.model))
    with reading_from(claim.index):
        latents = context.deployment.blobs.get(handoff.latents)
    timing = unpack_timing(head.shape, handoff.timing)
    with lease.in_engine():
        data = _encoded(*engine.decode(*decode_latents(latents)), engine.audio_rate, timing)
    _keep(context, claim, data, timing)
    return {"clip": claim.index}


def make_beside(context: WorkerContext, claim: Claim, output: SegmentOutput, timing: SegmentTiming) -> None:
    """Have the clip of a segment made while this process goes on, once no more than one other is in the making."""
    lease = Lease(context.deployment.jobs, claim, context.settings.lease_s)
    with lease.until_handed_over():
        context.background.add(_FreshClip(context, lease, output.frames, output.sound, output.audio_rate, timing))


@dataclass(frozen=True, eq=False)
class _FreshClip:
    """The clip of a segment that this process has just rendered, under a lease of its own until it is made."""

    context: WorkerContext
    lease: Lease
    frames: Any
    sound: Any
    audio_rate: int
    timing: SegmentTiming

    def run(self) -> None:
        try:
            if self.lease.renew():  # else the job was stopped, or rewound, while the clip waited
                data = _encoded(self.frames, self.sound, self.audio_rate, self.timing)
                _keep(self.context, self.lease.claim, data, self.timing)
        except Exception as error:
            give_up(self.context, self.lease.claim, error)
        finally:
            self.lease.end()

    def release(self) -> None:
        settings = self.context.settings
        JobStore(connect(settings.redis_url), settings).give_up(self.lease.claim)  # an impatient one: the process ends


def _encoded(frames: Any, sound: Any, audio_rate: int, timing: SegmentTiming) -> bytes:
    """The clip of a segment: its new frames and its whole sound."""
    return encode_clip(
        frames[timing.skipped_frames :],
        sound,
        fps=timing.shape.fps,
        audio_rate=audio_rate,
        picture_start=timing.picture_start,
    )


def _keep(context: WorkerContext, claim: Claim, data: bytes, timing: SegmentTiming) -> None:
    """Store and commit a clip; the last one calls for the film."""
    reach("clip encoded", claim.job_id, claim.index)
    blob_id = when_there_is_room(lambda: context.deployment.store_for_job(claim.job_id, data, CLIP_MIME))
    reach("clip stored", claim.job_id, claim.index)
    record = ClipRecord(index=claim.index, blob_id=blob_id, frames=timing.new_frames, size=len(data))
    accepted, complete = context.deployment.jobs.commit_clip(claim, record)
    if accepted:
        reach("clip committed", claim.job_id, claim.index)
    if complete:
        context.deployment.publisher.film(claim.job_id)
