"""Makes the handoff of a rendering, and keeps renderings that were not chosen as takes of their segment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.jobs.committed import TakeRequest
from tasks.jobs.records import Handoff
from tasks.jobs.results import Claim, KeptRendering
from tasks.worker.clip_task import encoded, stored_clip
from tasks.worker.context import WorkerContext
from tasks.worker.inputs.source_video import as_shown
from tasks.worker.inputs.video_after import led_into
from tasks.worker.render_class import class_warnings
from tasks.worker.segments.renderings import Rendering
from tasks.worker.segments.state_upload import StateUpload, StoredState

if TYPE_CHECKING:
    from ltx2 import LTX2ContinuationState


def handoff_of(context: WorkerContext, claim: Claim, rendering: Rendering, stored: StoredState) -> Handoff:
    """What a rendering leaves for the next segment. stored: its state and latents."""
    request, output = rendering.request, rendering.output
    return Handoff(
        index=claim.index,
        state=stored.state,
        latents=stored.latents,
        continued=request.timing.continued,
        first_frame=request.timing.first_frame,
        seed=request.seed,
        decoder=str(output.decoding.decoder),
        noise_seed=output.decoding.noise_seed,
        fence=claim.fence,
        epoch=claim.epoch,
        worker=context.worker,
        engine_started=rendering.started + claim.clock_skew_s,
        engine_ended=rendering.ended + claim.clock_skew_s,
        made_with=dict(output.made_with),
        render_class=context.engines.render_class,
        warnings=[*output.warnings, *class_warnings(claim, context.engines.render_class)],
        from_take=claim.from_take,
        pinned_to=claim.other_take,
        dissolve=request.timing.dissolve,
        join=None if rendering.join is None else rendering.join.excess,
    )


def kept(context: WorkerContext, claim: Claim, rendering: Rendering, incoming: LTX2ContinuationState) -> KeptRendering:
    """Store a rendering that is not chosen, with its clip. incoming: the state that it continues."""
    output, timing = rendering.output, rendering.request.timing
    made = handoff_of(context, claim, rendering, StateUpload(context, claim).finish(output))
    frames = led_into(output.frames, rendering.request.end)
    frames, timing = as_shown(claim, frames, timing, incoming.video_frames)
    data = encoded(frames, output.sound, output.audio_rate, timing, claim.head.crop)
    return KeptRendering(TakeRequest(seed=made.seed), made, stored_clip(context, claim, data, timing))
