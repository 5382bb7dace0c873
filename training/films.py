"""Rendering of whole films in this process, with states passed from segment to segment as workers do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ltx2.media.sound import SoundComposer
from ltx2.quality.continuity import Continuity, continuity
from ltx2.request import SegmentOutput, SegmentRequest
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.timeline import (
    SegmentShape,
    SegmentTiming,
    continued_timing,
    exact,
    film_frames,
    film_samples,
    first_timing,
    next_timing,
    segment_seed,
    sound_spans,
)
from training.world import FPS, FRAMES, HEIGHT, WIDTH

Change = Callable[[int, LTX2ContinuationState], LTX2ContinuationState]


class Renders(Protocol):
    """The part of the engine's interface that is used here."""

    def run(self, request: SegmentRequest, state: LTX2ContinuationState | None = None) -> SegmentOutput: ...


@dataclass(frozen=True, slots=True)
class Film:
    """pieces: the new frames `[T, H, W, 3]` of each segment. sound: `[C, n]`."""

    pieces: list[NDArray[np.uint8]]
    sound: NDArray[np.float32]
    rate: int
    timings: list[SegmentTiming]

    def continuity(self) -> Continuity:
        """Measures of how its segments join."""
        return continuity(self.pieces, self.sound, self.rate, self.timings)


def render(
    engine: Renders,
    prompts: Sequence[str],
    *,
    seed: int,
    overlap: int = 9,
    shorter: int = 0,
    cuts: Sequence[int] = (),
    change: Change | None = None,
) -> Film:
    """Render one segment per prompt at 192x128.

    overlap: conditioning frames. shorter: audio latents by which the pinned sound is shorter than usual. cuts: segments
    that begin at a cut. change: changes the state before a segment, for tests of broken films; the number of pinned
    latents and the offset in the changed state are used.
    """
    timing = first_timing(SegmentShape(FRAMES, Fraction(FPS), overlap))
    outputs: list[SegmentOutput] = []
    timings: list[SegmentTiming] = []
    for index, prompt in enumerate(prompts):
        state = outputs[-1].state if outputs else None
        if timings:
            timing = next_timing(timings[-1], cut=index in cuts)
        if state and timing.continued:
            state = _shortened(state, shorter)
            state = change(index, state) if change else state
            timing = _timing_of_state(timing, state)
        request = SegmentRequest(prompt, segment_seed(seed, index), WIDTH, HEIGHT, timing)
        outputs.append(engine.run(request, state))
        timings.append(timing)
    return joined(outputs, timings)


def _shortened(state: LTX2ContinuationState, latents: int) -> LTX2ContinuationState:
    """The state with `latents` fewer pinned audio latents."""
    return replace(
        state,
        audio_conditioning_num_frames=state.audio_conditioning_num_frames - latents,
        video_position_offset_sec=float(exact(state.video_position_offset_sec) - Fraction(latents, 25)),
    )


def _timing_of_state(timing: SegmentTiming, state: LTX2ContinuationState) -> SegmentTiming:
    """The timing of a continuation with the pinned latents and the offset of `state`."""
    return continued_timing(
        timing.shape,
        pinned=state.audio_conditioning_num_frames,
        offset=exact(state.video_position_offset_sec),
        index=timing.index,
        first_frame=timing.first_frame,
    )


def joined(outputs: Sequence[SegmentOutput], timings: list[SegmentTiming]) -> Film:
    """The film of rendered segments with these timings."""
    rate = outputs[0].audio_rate
    samples = film_samples(film_frames(timings), Fraction(FPS), rate)
    composer = SoundComposer(sound_spans(timings, rate), samples, outputs[0].sound.shape[1])
    sound = np.concatenate([composer.add(index, output.sound) for index, output in enumerate(outputs)])
    pieces = [output.frames[timing.skipped_frames :] for output, timing in zip(outputs, timings, strict=True)]
    return Film(pieces, np.ascontiguousarray(sound.T), rate, timings)
