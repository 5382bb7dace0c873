"""Uploads a segment's output state and latents, early where possible."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blobstore import BlobStore, BlobStoreError, BlobStoreFullError, BlobStoreUnavailableError, blob_id_of
from blobstore.protocol import DEFAULT_MIME, Data
from tasks.deployment import pin_stored
from tasks.jobs import state_wire
from tasks.jobs.failpoints import reach
from tasks.jobs.results import Claim
from tasks.worker.claims.failures import when_there_is_room
from tasks.worker.context import WorkerContext

if TYPE_CHECKING:
    from torch import Tensor

    from ltx2 import LTX2ContinuationState
    from ltx2.request import SegmentOutput

log = logging.getLogger(__name__)
PUTS = 4  # at the same time: frames, sound, metadata and latents


@dataclass(frozen=True, slots=True)
class StoredState:
    """A state in its wire form, and the blob of its segment's latents."""

    state: dict[str, Any]
    latents: str

    @property
    def blobs(self) -> list[str]:
        """Every blob that a repair needs."""
        return [*state_wire.state_blobs(self.state), self.latents]


class StateUpload:
    """The upload of what one segment leaves for the next."""

    def __init__(self, context: WorkerContext, claim: Claim) -> None:
        self._context = context
        self._claim = claim
        self._early: StoredState | None = None

    def start(self, state: LTX2ContinuationState, video_latents: Tensor, audio_latents: Tensor) -> None:
        """Upload while the engine still runs; an `ltx2.request.OnState`. `finish` handles errors of the blob store.

        Raises:
            BlobStoreUnavailableError: the store was out for as long as work waits; `finish` would wait as long again.
        """
        job_id, index = self._claim.job_id, self._claim.index
        self._early = None
        reach("state rendered", job_id, index)
        try:
            self._early = self._put(state, video_latents, audio_latents)
        except BlobStoreUnavailableError:
            raise
        except BlobStoreError as error:
            if not isinstance(error, BlobStoreFullError):  # `finish` waits for room, and logs it
                log.warning("the state could not be stored early", extra={"reason": str(error)})
            return
        reach("state stored", job_id, index)

    def finish(self, output: SegmentOutput) -> StoredState:
        """Upload what is missing, and pin everything for the job; waits for a full store.

        Raises:
            BlobStoreError: it could not be stored.
        """
        return when_there_is_room(lambda: self._pinned(output))

    def _pinned(self, output: SegmentOutput) -> StoredState:
        blobs, job_id = self._context.deployment.blobs, self._claim.job_id
        rendered = output.state, output.video_latents, output.audio_latents
        stored = self._early or self._put(*rendered)
        pin_stored(blobs, stored.blobs, job_id, put_again=lambda: self._put(*rendered))
        return stored

    def _put(self, state: LTX2ContinuationState, video_latents: Tensor, audio_latents: Tensor) -> StoredState:
        """All blobs at the same time, provisionally pinned for the job."""
        from ltx2.state.arrays import LATENTS_MIME, encode_latents

        limit = self._context.settings.inline_threshold_bytes
        with ThreadPoolExecutor(PUTS) as threads:
            blobs = _ParallelPuts(self._context.deployment.blobs.owned_by(self._claim.job_id), threads)
            latents = threads.submit(lambda: blobs.put(encode_latents(video_latents, audio_latents), mime=LATENTS_MIME))
            stored = StoredState(state_wire.encode(state, blobs, inline_threshold_bytes=limit), latents.result())
            blobs.wait()
        return stored


class _ParallelPuts:
    """A `BlobStore` that puts in threads: an id is known before its blob is stored."""

    def __init__(self, store: BlobStore, threads: ThreadPoolExecutor) -> None:
        self._store = store
        self._threads = threads
        self._puts: list[Future[str]] = []
        self.get, self.drop = store.get, store.drop

    def put(self, data: Data, *, mime: str = DEFAULT_MIME) -> str:
        """Begin to store `data`."""
        self._puts.append(self._threads.submit(self._store.put, data, mime=mime))
        return blob_id_of(data)

    def __contains__(self, blob_id: object) -> bool:
        return blob_id in self._store

    def wait(self) -> None:
        """Return when all blobs are stored.

        Raises:
            BlobStoreError: one of them could not be stored.
        """
        for put in self._puts:
            put.result()
