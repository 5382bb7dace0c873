"""An engine without a model that draws worlds, and continues a state as an ideal model would."""

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
class Position:
    """A world, and its time in seconds in a frame and in the sound.

    direction: 1 where time runs forwards in the frames, -1 where it runs backwards.
    """

    world: World
    video_time: float
    direction: int
    sound_time: float


class IdealEngine:
    """Draws the worlds of its prompts; the seed of a first segment places the shapes.

    In a continuation, the motion of the state's frames and its pinned sound continue.
    """

    def __init__(self, worlds: Iterable[World]) -> None:
        self._worlds = {world.prompt: world for world in worlds}

    def run(self, request: SegmentRequest, state: LTX2ContinuationState | None = None) -> SegmentOutput:
        timing = request.timing
        if state is None or not timing.continued:
            start = Position(placed(self._worlds[request.prompt], request.seed), 0.0, 1, 0.0)
        else:
            start = _continued(state, timing)
        world, direction = start.world, start.direction
        frames = _frames(world, start.video_time, direction, timing.shape.frames)
        sound = world.samples(start.sound_time, int(sound_seconds(timing.audio_latents) * RATE), RATE).T
        last = start.video_time + direction * (timing.shape.frames - 1) / FPS
        after = LTX2ContinuationState(
            segment_index=timing.index,
            video_frames=list(frames[-timing.shape.overlap :]),
            audio_conditioning_num_frames=timing.next_pinned,
            video_position_offset_sec=float(timing.next_offset),
            metadata={"end": Position(world, last, direction, start.sound_time + LATENT * timing.audio_latents)},
        )
        return SegmentOutput(frames, sound, RATE, torch.zeros(0), torch.zeros(0), after)


def placed(world: World, seed: int) -> World:
    """Place the shapes of `world` by `seed`."""
    rng = np.random.default_rng(seed)
    shapes = (settle(one.kind, one.colour, one.way, one.pace, rng.random(4)) for one in world.shapes)
    return World(tuple(shapes), world.background, world.sound)


def _continued(state: LTX2ContinuationState, timing: SegmentTiming) -> Position:
    """The first frame and the start of the sound of a continuation; reversed frames reverse its direction."""
    end: Position = state.metadata["end"]
    assert state.video_frames
    sound_time = end.sound_time - LATENT * timing.pinned
    if np.array_equal(state.video_frames[-1], _frames(end.world, end.video_time, 1, 1)[0]):
        first = end.video_time - end.direction * (timing.shape.overlap - 1) / FPS
        return Position(end.world, first, end.direction, sound_time)
    return Position(end.world, end.video_time, -end.direction, sound_time)


def _frames(world: World, first: float, direction: int, count: int) -> NDArray[np.uint8]:
    if direction > 0:
        return world.frames(first, count)
    return world.frames(first - (count - 1) / FPS, count)[::-1]
