"""Ways in which a chain can go wrong between segments, done on purpose: what measures continuity must find each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from ltx2.model.denoiser import Denoiser
from ltx2.model.pipeline import AudioPrefix, LongtakePipeline
from ltx2.state.continuation import LTX2ContinuationState
from training.films import Film, Renders, render

State = LTX2ContinuationState


@dataclass(frozen=True, slots=True)
class Job:
    """What a film is rendered from."""

    prompts: Sequence[str]
    seed: int


Control = Callable[[Renders, Job, Job], Film]


def good(engine: Renders, job: Job, other: Job) -> Film:
    """Nothing is wrong."""
    return render(engine, job.prompts, seed=job.seed)


def cut(engine: Renders, job: Job, other: Job) -> Film:
    """No segment continues the one before."""
    return render(engine, job.prompts, seed=job.seed, cuts=range(1, len(job.prompts)))


def changed(change: Callable[[State], State], engine: Renders, job: Job, other: Job) -> Film:
    return render(engine, job.prompts, seed=job.seed, change=lambda _, state: change(state))


def frames_reversed(state: State) -> State:
    assert state.video_frames
    return replace(state, video_frames=state.video_frames[::-1])


def half_a_second_off(state: State) -> State:
    return replace(state, video_position_offset_sec=state.video_position_offset_sec + 0.5)


def another_jobs_state(engine: Renders, job: Job, other: Job) -> Film:
    """Every segment goes on from where the first one of another job ended."""
    states: list[State] = []

    def keep(_: int, state: State) -> State:
        states.append(state)
        return state

    render(engine, other.prompts[:2], seed=other.seed, change=keep)
    return render(engine, job.prompts, seed=job.seed, change=lambda *_: states[0])


def with_mask_of_sound_inverted(engine: Renders, job: Job, other: Job) -> Film:
    """What should be kept is made anew, and what should be new is kept at nothing."""
    stock = Denoiser._audio_prefix

    def inverted(self: Denoiser, *args: Any) -> AudioPrefix:
        prefix = stock(self, *args)
        return replace(prefix, mask=1 - prefix.mask) if (prefix.mask == 0).any() else prefix

    with patched(Denoiser, "_audio_prefix", inverted):
        return good(engine, job, other)


def with_mask_of_picture_inverted(engine: Renders, job: Job, other: Job) -> Film:
    """The same of the picture."""
    stock = LongtakePipeline.apply_first_frame_conditioning

    def inverted(self: LongtakePipeline, *args: Any, **kwargs: Any) -> Any:
        latents, mask, clean = stock(self, *args, **kwargs)
        return (latents, 1 - mask, clean) if mask.any() else (latents, mask, clean)

    with patched(LongtakePipeline, "apply_first_frame_conditioning", inverted):
        return good(engine, job, other)


@contextmanager
def patched(owner: type, name: str, value: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, value)
        yield


CONTROLS: dict[str, Control] = {
    "transition: cut": cut,
    "frames reversed": partial(changed, frames_reversed),
    "mask of the sound inverted": with_mask_of_sound_inverted,
    "mask of the picture inverted": with_mask_of_picture_inverted,
    "offset off by half a second": partial(changed, half_a_second_off),
    "another job's state": another_jobs_state,
}
