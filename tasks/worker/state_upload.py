"""Putting what a segment hands on: as soon as its engine knows it, and again where that failed or was lost."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blobstore import BlobNotFoundError, BlobStoreError
from tasks.failpoints import reach
from tasks.jobs import state_wire as handoff
from tasks.jobs.records import Claim
from tasks.worker.context import WorkerContext
from tasks.worker.failures import when_there_is_room

if TYPE_CHECKING:
    from torch import Tensor

    from ltx2 import LTX2ContinuationState
    from ltx2.request import SegmentOutput

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """A state as a message and as the record carry it, and the blob of its segment's latents."""

    message: dict[str, Any]
    record: dict[str, Any]
    latents: str

    @property
    def blobs(self) -> list[str]:
        """All that must stay for a repair."""
        return [*handoff.blob_ids(self.record), self.latents]


class Storing:
    """What one segment leaves, on its way into the blob store."""

    def __init__(self, context: WorkerContext, claim: Claim) -> None:
        self._context = context
        self._claim = claim
        self._early: Stored | None = None

    def begin(self, state: LTX2ContinuationState, video_latents: Tensor, audio_latents: Tensor) -> None:
        """Put them while the engine goes on; an `ltx2.request.OnState`. Errors of the store are left to `finish`."""
        job_id, index = self._claim.job_id, self._claim.index
        self._early = None
        reach("state rendered", job_id, index)
        try:
            self._early = self._put(state, video_latents, audio_latents)
        except BlobStoreError as error:
            log.warning("job %s: the state of segment %d could not be stored early: %s", job_id, index, error)
            return
        reach("state stored", job_id, index)

    def finish(self, output: SegmentOutput) -> Stored:
        """Put what is not there, and pin it all for the job; a full store is waited for.

        Raises BlobStoreError.
        """
        return when_there_is_room(lambda: self._pinned(output))

    def _pinned(self, output: SegmentOutput) -> Stored:
        if self._early is not None:
            with suppress(BlobNotFoundError):  # the server came back empty
                self._context.deployment.blobs.pin(self._early.blobs, self._claim.job_id)
                return self._early
        stored = self._put(output.state, output.video_latents, output.audio_latents)
        self._context.deployment.blobs.pin(stored.blobs, self._claim.job_id)
        return stored

    def _put(self, state: LTX2ContinuationState, video_latents: Tensor, audio_latents: Tensor) -> Stored:
        """Both beside each other, pinned provisionally for the job."""
        from ltx2.state.arrays import LATENTS_MIME, encode_latents

        def put_latents() -> str:
            return blobs.put(encode_latents(video_latents, audio_latents), mime=LATENTS_MIME)

        blobs = self._context.deployment.blobs.owned_by(self._claim.job_id)
        with ThreadPoolExecutor(1) as beside:
            putting = beside.submit(put_latents)
            limit = self._context.settings.inline_threshold_bytes
            message = handoff.to_message(state, blobs, inline_threshold_bytes=limit)
            return Stored(message, handoff.to_record(message, blobs), putting.result())
