"""The upload of a segment's output state: early where possible, complete at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from blobstore import BlobStoreFullError, BlobStoreUnavailableError, InMemoryBlobStore
from blobstore.protocol import DEFAULT_PIN_LEASE_S, DEFAULT_TTL_S, Data
from ltx2 import LTX2ContinuationState
from ltx2.request import SegmentOutput
from tasks.deployment import Deployment
from tasks.settings import Settings
from tasks.worker.segments.state_upload import StateUpload, StoredState
from tests.tasks.jobs.test_state_wire import a_state

JOB = "job"
VIDEO, AUDIO = torch.ones(1, 128, 2, 1, 2), torch.zeros(1, 8, 26, 16)


class CountingStore(InMemoryBlobStore):
    """A store that counts puts; tests set its clock, and whether puts fail."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: self.now)
        self.puts = 0
        self.unavailable = self.full = False
        self.restarts = 0  # how many pins find the store empty
        self.together = threading.Barrier(1)
        self.now = 0.0

    def put(self, data: Data, **options: Any) -> str:
        self.puts += 1
        self.together.wait()
        if self.full:
            raise BlobStoreFullError("full")
        if self.unavailable:
            raise BlobStoreUnavailableError("unavailable")
        return super().put(data, **options)

    def pin(self, blob_ids: Iterable[str], owner: str, *, provisional: bool = False) -> None:
        wanted = list(blob_ids)
        if self.restarts:
            self.restarts -= 1
            for blob_id in wanted:
                self.drop(blob_id)
        super().pin(wanted, owner, provisional=provisional)


@pytest.fixture
def blobs() -> CountingStore:
    return CountingStore()


@pytest.fixture
def own(blobs: CountingStore) -> StateUpload:
    settings = SimpleNamespace(inline_threshold_bytes=1024)
    context: Any = SimpleNamespace(deployment=SimpleNamespace(blobs=blobs), settings=settings)
    claim: Any = SimpleNamespace(job_id=JOB, index=3)
    return StateUpload(context, claim)


def output_of(state: LTX2ContinuationState) -> SegmentOutput:
    frames, sound = np.zeros((17, 32, 64, 3), np.uint8), np.zeros((100, 2), np.float32)
    return SegmentOutput(frames, sound, 24_000, VIDEO, AUDIO, state)


def is_pinned(stored: StoredState, blobs: CountingStore) -> bool:
    """Whether the job pins all three blobs, and they outlive the default leases."""
    blobs.now += DEFAULT_PIN_LEASE_S + DEFAULT_TTL_S + 1
    return (
        len(stored.blobs) == 3 and set(stored.blobs) == blobs.pins(JOB) and all(blob in blobs for blob in stored.blobs)
    )


def test_a_state_that_the_engine_reports_early_is_uploaded_once(own: StateUpload, blobs: CountingStore) -> None:
    # Given
    own.start(a_state(), VIDEO, AUDIO)
    puts = blobs.puts
    # When
    stored = own.finish(output_of(a_state()))
    # Then
    assert puts == blobs.puts == 3
    assert is_pinned(stored, blobs)


def test_a_state_that_is_not_reported_early_is_uploaded_at_the_end(own: StateUpload, blobs: CountingStore) -> None:
    # Given an engine that never calls `on_state`
    # When / Then
    assert is_pinned(own.finish(output_of(a_state())), blobs)


def test_the_blobs_of_a_state_are_stored_at_the_same_time(own: StateUpload, blobs: CountingStore) -> None:
    # Given a store in which no put ends before three have begun
    blobs.together = threading.Barrier(3, timeout=60)
    # When / Then
    assert is_pinned(own.finish(output_of(a_state())), blobs)


def test_a_failed_early_upload_is_repeated_at_the_end(
    own: StateUpload, blobs: CountingStore, caplog: pytest.LogCaptureFixture
) -> None:
    # Given
    blobs.full = True
    own.start(a_state(), VIDEO, AUDIO)
    # When
    blobs.full = False
    stored = own.finish(output_of(a_state()))
    # Then
    assert is_pinned(stored, blobs)
    assert not caplog.text  # nobody had to wait


def test_a_store_that_stays_out_is_not_waited_for_twice(own: StateUpload, blobs: CountingStore) -> None:
    blobs.unavailable = True
    with pytest.raises(BlobStoreUnavailableError):
        own.start(a_state(), VIDEO, AUDIO)


def test_the_last_state_that_the_engine_reports_is_stored(own: StateUpload, blobs: CountingStore) -> None:
    # Given an engine that restarted, and whose second state could not be stored early
    own.start(a_state(segment_index=7), VIDEO, AUDIO)
    blobs.full = True
    own.start(a_state(), VIDEO, AUDIO)
    blobs.full = False
    # When / Then
    assert own.finish(output_of(a_state())).state["payload"]["segment_index"] == 3


@pytest.mark.parametrize("early", [True, False])
def test_blobs_that_the_server_lost_are_uploaded_again(own: StateUpload, blobs: CountingStore, early: bool) -> None:
    # Given a store that is empty when its blobs are pinned
    blobs.restarts = 1
    if early:
        own.start(a_state(), VIDEO, AUDIO)
    # When / Then
    assert is_pinned(own.finish(output_of(a_state())), blobs)


def test_a_clip_that_the_server_lost_is_stored_again(blobs: CountingStore, settings: Settings) -> None:
    # Given
    blobs.restarts = 1
    deployment = Deployment(settings)
    deployment.blobs = blobs
    # When / Then
    blob_id = deployment.store_for_job(JOB, b"a clip", "video/mp4")
    assert blobs.pins(JOB) == {blob_id}
    assert blobs.get(blob_id) == b"a clip"
