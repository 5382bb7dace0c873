"""Deliberate faults between the segments of a film; measuring continuity must detect each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from ltx2.model.denoising.denoiser import Denoiser
from ltx2.model.pipeline import LongtakePipeline, Pins
from ltx2.state.continuation import LTX2ContinuationState
from training.films import Film, Renders, render

State = LTX2ContinuationState


@dataclass(frozen=True, slots=True)
class Job:
    """What a film is rendered from."""

    prompts: Sequence[str]
    seed: int


RenderJob = Callable[[Renders, Job, Job], Film]


def without_fault(engine: Renders, job: Job, other: Job) -> Film:
    """Render `job` correctly."""
    return render(engine, job.prompts, seed=job.seed)


def with_cuts(engine: Renders, job: Job, other: Job) -> Film:
    """No segment continues the one before."""
    return render(engine, job.prompts, seed=job.seed, cuts=range(1, len(job.prompts)))


def with_changed_states(change: Callable[[State], State], engine: Renders, job: Job, other: Job) -> Film:
    return render(engine, job.prompts, seed=job.seed, change=lambda _, state: change(state))


def reverse_frames(state: State) -> State:
    assert state.video_frames
    return replace(state, video_frames=state.video_frames[::-1])


def add_half_a_second(state: State) -> State:
    return replace(state, video_position_offset_sec=state.video_position_offset_sec + 0.5)


def with_another_jobs_state(engine: Renders, job: Job, other: Job) -> Film:
    """Every segment continues the first segment of `other`."""
    states: list[State] = []

    def keep(_: int, state: State) -> State:
        states.append(state)
        return state

    render(engine, other.prompts[:2], seed=other.seed, change=keep)
    return render(engine, job.prompts, seed=job.seed, change=lambda *_: states[0])


def with_inverted_audio_mask(engine: Renders, job: Job, other: Job) -> Film:
    """The pinned latents are generated, and the others keep their value of 0."""
    stock = Denoiser._pins

    def inverted(self: Denoiser, *args: Any) -> Pins:
        pins = stock(self, *args)
        return replace(pins, audio_mask=1 - pins.audio_mask) if (pins.audio_mask == 0).any() else pins

    with patched(Denoiser, "_pins", inverted):
        return without_fault(engine, job, other)


def with_inverted_video_mask(engine: Renders, job: Job, other: Job) -> Film:
    """The mask of the conditioning frames is inverted."""
    stock = LongtakePipeline.apply_first_frame_conditioning

    def inverted(self: LongtakePipeline, *args: Any, **kwargs: Any) -> Any:
        latents, mask, clean = stock(self, *args, **kwargs)
        return (latents, 1 - mask, clean) if mask.any() else (latents, mask, clean)

    with patched(LongtakePipeline, "apply_first_frame_conditioning", inverted):
        return without_fault(engine, job, other)


@contextmanager
def patched(owner: type, name: str, value: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, value)
        yield


FAULTS: dict[str, RenderJob] = {
    "transition: cut": with_cuts,
    "frames reversed": partial(with_changed_states, reverse_frames),
    "audio mask inverted": with_inverted_audio_mask,
    "video mask inverted": with_inverted_video_mask,
    "offset half a second too large": partial(with_changed_states, add_half_a_second),
    "another job's state": with_another_jobs_state,
}
"""Functions that render the first of two jobs with a fault; the second job may provide states."""
