"""A group of two processes on a CPU: calls, their errors on all ranks, and what happens when one is gone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from ltx2.checkpoints.loras.lora import Lora
from ltx2.errors import DeviceError, NotFiniteError, RankError, SegmentCancelledError
from ltx2.group import watch
from ltx2.group.leader import GroupEngine, RankGroup
from ltx2.group.rendezvous import device_of_rank, rank_count
from ltx2.request import SegmentRequest
from ltx2.timeline import SegmentShape, exact, first_timing, next_timing
from tests.conftest import STAND_IN
from tests.stand_in import STEPS, StandInEngine

FIRST = first_timing(SegmentShape(frames=17, fps=exact(24)))


@pytest.fixture(scope="module")
def stuck() -> list[str]:
    """The reasons for which this process was found to be stuck."""
    return []


@pytest.fixture(scope="module")
def group(stuck: list[str]) -> Iterator[RankGroup]:
    made = RankGroup(2, "cpu", timeout_s=20.0, on_stuck=stuck.append)
    yield made
    made.close()


@pytest.fixture(scope="module")
def engine(group: RankGroup) -> GroupEngine:
    return group.load(STAND_IN, "shapes", loras=[Lora("a/b", 0.5)])


def request(prompt: str) -> SegmentRequest:
    return SegmentRequest(prompt, 7, 64, 32, FIRST)


def test_a_model_that_is_refused_on_all_ranks_is_refused_with_the_reason(
    group: RankGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given ranks that read files at their own pace
    monkeypatch.setattr(group._watch, "settle_s", 0.2)
    # When / Then
    with pytest.raises(DeviceError, match="it has 1 head"):
        group.load(STAND_IN, "refused")
    assert group.works


def test_a_group_renders_what_one_process_renders(engine: GroupEngine) -> None:
    # Given
    alone = StandInEngine([Lora("a/b", 0.5)])
    steps, states = [], []

    def on_state(*early: Any) -> None:
        states.append(early)

    # When
    made = engine.run(request("a"), on_step=lambda *step: steps.append(step), on_state=on_state)
    # Then
    np.testing.assert_array_equal(made.frames, alone.run(request("a")).frames)
    assert steps == [(step, STEPS) for step in range(1, STEPS + 1)]
    assert len(states) == 1
    assert engine.made_with["gpus"] == "2"
    # And the state goes on, latents are decoded, and LoRAs change
    following = SegmentRequest("b", 7, 64, 32, next_timing(FIRST))
    assert torch.equal(engine.run(following, made.state).video_latents, alone.run(following, made.state).video_latents)
    np.testing.assert_array_equal(engine.decode(made.video_latents, made.audio_latents)[0], made.frames)
    assert engine.set_loras([])
    assert engine.encode_sound(np.zeros((1280, 2), np.float32), 2).shape == (1, 8, 2, 16)
    assert engine.duration("a boat leaves") == 3


@pytest.mark.parametrize(("prompt", "kind"), [("nan", NotFiniteError), ("cancel", SegmentCancelledError)])
def test_an_error_of_all_ranks_is_that_of_one(engine: GroupEngine, prompt: str, kind: type[Exception]) -> None:
    # When
    with pytest.raises(kind):
        engine.run(request(prompt), on_step=lambda step, _: step < 2 or prompt != "cancel")
    # Then all ranks render the next segment
    assert engine.run(request("a")).frames.shape[0] == 17


def test_an_error_of_the_caller_stops_all_ranks(engine: GroupEngine) -> None:
    # When what is called with a step, or with the state, fails
    def fails(*_: Any) -> None:
        raise NotFiniteError("no")

    for called in ({"on_step": fails}, {"on_state": fails}):
        with pytest.raises(NotFiniteError, match="no"):
            engine.run(request("a"), **called)
    # Then all ranks render the next segment
    assert engine.run(request("a")).frames.shape[0] == 17


def test_a_call_that_does_not_end_after_a_fault(
    group: RankGroup, engine: GroupEngine, stuck: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a call that waits on this rank, whatever becomes of the others
    monkeypatch.setattr(watch, "ABORT_S", 0.1)
    [follower] = [one for one in psutil.Process().children() if "ltx2.group.follower" in one.cmdline()]
    ended = threading.Event()

    def waits() -> None:
        os.kill(follower.pid, signal.SIGKILL)
        while not stuck:
            ended.wait(0.05)

    # When the follower is killed, Then this process hears that it is stuck, and the call fails
    with pytest.raises(RankError, match=r"rank 1 \(process \d+\) died by signal 9"):
        group.call("set_loras", ((),), {}, waits)
    assert stuck
    # And so does every later one
    with pytest.raises(RankError):
        engine.run(request("a"))
    assert not group.works


def test_how_many_ranks_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rank_count("all", "cpu") == 1
    assert rank_count("3", "cpu") == 3
    assert device_of_rank("cpu", 2) == "cpu"
    # Without a GPU, several processes must be asked for
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (rank_count("all", "auto"), rank_count("1", "auto")) == (1, 1)
    for device in ("auto", "cuda"):
        with pytest.raises(DeviceError, match=r"^gpus is 3, but this machine has no GPU; .* need LONGTAKE_DEVICE=cpu$"):
            rank_count("3", device)


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [rank_count("all", device) for device in ("auto", "cuda", "cuda:1", "cpu")] == [4, 4, 3, 1]
    assert [device_of_rank("cuda:1", rank) for rank in range(3)] == ["cuda:1", "cuda:2", "cuda:3"]
    with pytest.raises(DeviceError, match="gpus is 4, but this host has 3 CUDA devices from cuda:1 on"):
        rank_count("4", "cuda:1")
