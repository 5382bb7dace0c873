"""Putting what a segment hands on: early where its engine tells it early, and whole in the end whatever went wrong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from blobstore import BlobStoreUnavailableError, InMemoryBlobStore
from blobstore.protocol import DEFAULT_PIN_LEASE_S, DEFAULT_TTL_S, Data
from ltx2 import LTX2ContinuationState
from ltx2.request import SegmentOutput
from tasks.worker.state_upload import StateUpload, StoredState
from tests.tasks.jobs.test_state_wire import a_state

JOB = "job"
VIDEO, AUDIO = torch.ones(1, 128, 2, 1, 2), torch.zeros(1, 8, 26, 16)


class CountingStore(InMemoryBlobStore):
    """Counts what is put, and is out for as long as it is told to be; its clock goes as it is told."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: self.now)
        self.puts = 0
        self.out = False
        self.now = 0.0

    def put(self, data: Data, **options: Any) -> str:
        self.puts += 1
        if self.out:
            raise BlobStoreUnavailableError("out")
        return super().put(data, **options)


@pytest.fixture
def blobs() -> CountingStore:
    return CountingStore()


@pytest.fixture
def own(blobs: CountingStore) -> StateUpload:
    settings = SimpleNamespace(inline_threshold_bytes=1024)
    room: Any = SimpleNamespace(deployment=SimpleNamespace(blobs=blobs), settings=settings)
    claim: Any = SimpleNamespace(job_id=JOB, index=3)
    return StateUpload(room, claim)


def output_of(state: LTX2ContinuationState) -> SegmentOutput:
    frames, sound = np.zeros((17, 32, 64, 3), np.uint8), np.zeros((100, 2), np.float32)
    return SegmentOutput(frames, sound, 24_000, VIDEO, AUDIO, state)


def is_kept(stored: StoredState, blobs: CountingStore) -> bool:
    """Whether it is all there for the job, also when what nobody pins has gone."""
    blobs.now += DEFAULT_PIN_LEASE_S + DEFAULT_TTL_S + 1
    return len(stored.blobs) == 3 and set(stored.blobs) == blobs.pins(JOB) and all(one in blobs for one in stored.blobs)


def test_what_the_engine_tells_early_is_put_once(own: StateUpload, blobs: CountingStore) -> None:
    # Given
    own.start(a_state(), VIDEO, AUDIO)
    put = blobs.puts
    # When
    stored = own.finish(output_of(a_state()))
    # Then
    assert put == blobs.puts == 3
    assert is_kept(stored, blobs)


def test_what_the_engine_tells_at_its_end_alone_is_put_then(own: StateUpload, blobs: CountingStore) -> None:
    # Given an engine of somebody else's, which calls nobody
    # When / Then
    assert is_kept(own.finish(output_of(a_state())), blobs)


def test_a_store_that_was_out_early_and_is_back_gets_it_in_the_end(
    own: StateUpload, blobs: CountingStore, caplog: pytest.LogCaptureFixture
) -> None:
    # Given
    blobs.out = True
    own.start(a_state(), VIDEO, AUDIO)
    # When
    blobs.out = False
    stored = own.finish(output_of(a_state()))
    # Then
    assert is_kept(stored, blobs)
    assert "the state could not be stored early" in caplog.text


def test_a_store_that_stays_out_is_told_in_the_end(own: StateUpload, blobs: CountingStore) -> None:
    # Given
    blobs.out = True
    own.start(a_state(), VIDEO, AUDIO)
    # When / Then
    with pytest.raises(BlobStoreUnavailableError):
        own.finish(output_of(a_state()))


def test_of_two_that_are_told_the_second_counts(own: StateUpload, blobs: CountingStore) -> None:
    # Given an engine that began anew, and whose second state could not be stored early
    own.start(a_state(segment_index=7), VIDEO, AUDIO)
    blobs.out = True
    own.start(a_state(), VIDEO, AUDIO)
    blobs.out = False
    # When / Then
    assert own.finish(output_of(a_state())).state["payload"]["segment_index"] == 3


def test_what_a_server_lost_meanwhile_is_put_again(own: StateUpload, blobs: CountingStore) -> None:
    # Given
    own.start(a_state(), VIDEO, AUDIO)
    for blob_id in blobs.pins(JOB):
        blobs.drop(blob_id)
    # When / Then
    assert is_kept(own.finish(output_of(a_state())), blobs)
