"""An engine that has nothing to learn: it draws the world itself, and goes on from a state as a perfect model would."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ltx2.request import SegmentOutput, SegmentRequest
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.timeline import SegmentTiming, sound_seconds
from training.world import FPS, World, settle

RATE = 24_000
LATENT = 0.04  # seconds of sound


@dataclass(frozen=True)
class Moment:
    """Where a segment ended: its world; the world's time in its last frame, and whether it runs on or back; the world's
    time at the end of its sound."""

    world: World
    seen: float
    pace: int
    heard: float


class Truth:
    """Renders worlds by what their prompts say, first segments from where their seeds settle them.

    In a continuation the picture goes on the way that the state's frames went, and the sound from what is pinned.
    """

    def __init__(self, worlds: Iterable[World]) -> None:
        self._worlds = {world.prompt: world for world in worlds}

    def run(self, request: SegmentRequest, state: LTX2ContinuationState | None = None) -> SegmentOutput:
        timing = request.timing
        if state is None or not timing.continued:
            world, pace, seen, heard = settled(self._worlds[request.prompt], request.seed), 1, 0.0, 0.0
        else:
            world, pace, seen, heard = self._going_on(state, timing)
        frames = _frames(world, seen, pace, timing.shape.frames)
        sound = world.samples(heard, int(sound_seconds(timing.audio_latents) * RATE), RATE).T
        last = seen + pace * (timing.shape.frames - 1) / FPS
        after = LTX2ContinuationState(
            segment_index=timing.index,
            video_frames=list(frames[-timing.shape.overlap :]),
            audio_conditioning_num_frames=timing.next_pinned,
            video_position_offset_sec=float(timing.next_offset),
            metadata={"moment": Moment(world, last, pace, heard + LATENT * timing.audio_latents)},
        )
        return SegmentOutput(frames, sound, RATE, torch.zeros(0), torch.zeros(0), after)

    @staticmethod
    def _going_on(state: LTX2ContinuationState, timing: SegmentTiming) -> tuple[World, int, float, float]:
        """The world, whether it runs on (1) or back (-1), its times in the first frame and where the sound begins."""
        moment: Moment = state.metadata["moment"]
        assert state.video_frames
        heard = moment.heard - LATENT * timing.pinned
        if np.array_equal(state.video_frames[-1], _frames(moment.world, moment.seen, 1, 1)[0]):
            return moment.world, moment.pace, moment.seen - moment.pace * (timing.shape.overlap - 1) / FPS, heard
        return moment.world, -moment.pace, moment.seen, heard


def settled(world: World, seed: int) -> World:
    """`world`, its shapes where this seed puts them."""
    rng = np.random.default_rng(seed)
    shapes = (settle(one.kind, one.colour, one.way, one.pace, rng.random(4)) for one in world.shapes)
    return World(tuple(shapes), world.background, world.sound)


def _frames(world: World, first: float, pace: int, count: int) -> NDArray[np.uint8]:
    if pace > 0:
        return world.frames(first, count)
    return world.frames(first - (count - 1) / FPS, count)[::-1]
