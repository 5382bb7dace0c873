"""Making a segment's clip: right after its segment, or anew from the stored latents when it was lost."""

from __future__ import annotations

from typing import Any

from ltx2.clip import encode_clip
from ltx2.timeline import SegmentTiming
from tasks.application import app
from tasks.broker import CLIP_TASK, CLIPS
from tasks.errors import MessageError
from tasks.failures import InputLostError, give_up, reading_from, repair, when_there_is_room
from tasks.lease import Lease
from tasks.points import reach
from tasks.reading import check_job_id
from tasks.records import Claim, ClipRecord, clip_unit, unpack_timing
from tasks.runtime import Runtime, runtime

CLIP_MIME = "video/mp4"


@app.task(name=CLIP_TASK)
def render_clip(job_id: str, index: int, ticket: int) -> dict[str, Any]:
    """Decode the stored latents of segment `index` again and make its clip."""
    room = runtime()
    unit = clip_unit(int(index))
    claim = room.jobs.claim_unit(check_job_id(job_id), unit, int(index), int(ticket), room.worker, CLIPS)
    if isinstance(claim, str):
        return {"skipped": claim}
    with Lease(room.jobs, claim, room.settings.lease_s) as lease:
        try:
            return _rebuild(room, lease)
        except InputLostError as error:
            return repair(room, claim, error)
        except SystemExit:
            room.jobs.give_up(claim)
            raise
        except Exception as error:
            return give_up(room, claim, error)


def _rebuild(room: Runtime, lease: Lease) -> dict[str, Any]:
    from ltx2.codec import decode_latents

    claim = lease.claim
    head, handoff = room.jobs.head(claim.job_id), room.jobs.handoff(claim.job_id, claim.index)
    if handoff is None or handoff.latents is None:
        raise MessageError(f"segment {claim.index} of job {claim.job_id} is not committed, and its clip cannot be made")
    engine = room.engine(str(head.model), head.loras)
    with reading_from(claim.index):
        latents = room.blobs.get(handoff.latents)
    with lease.in_engine():
        frames, sound = engine.decode(*decode_latents(latents))
    make_clip(room, claim, frames, sound, engine.audio_rate, unpack_timing(head.shape, handoff.timing))
    return {"clip": claim.index}


def make_clip(room: Runtime, claim: Claim, frames: Any, sound: Any, audio_rate: int, timing: SegmentTiming) -> None:
    """Encode the new frames and the whole sound of a segment, and commit the clip; the last clip calls for the film."""
    data = encode_clip(
        frames[timing.skipped_frames :],
        sound,
        fps=timing.shape.fps,
        audio_rate=audio_rate,
        picture_start=timing.picture_start,
    )
    reach("clip encoded", claim.job_id, claim.index)
    blob_id = when_there_is_room(lambda: room.keep(claim.job_id, data, CLIP_MIME))
    reach("clip stored", claim.job_id, claim.index)
    record = ClipRecord(index=claim.index, blob_id=blob_id, frames=timing.new_frames, size=len(data))
    accepted, complete = room.jobs.commit_clip(claim, record)
    if accepted:
        reach("clip committed", claim.job_id, claim.index)
    if complete:
        room.publisher.film(claim.job_id)
