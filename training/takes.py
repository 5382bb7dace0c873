"""Films that are edited: a segment rendered again between two that stay, a given soundtrack, images in time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltx2.engine import Engine
from ltx2.media.crossfade import crossfaded
from ltx2.quality.continuity import Continuity, broken
from ltx2.quality.insides import insides, leaps
from ltx2.quality.shape_tracking import track
from ltx2.request import PinnedEnd, PlacedImage, SegmentOutput, SegmentRequest
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.timeline import (
    SegmentShape,
    SegmentTiming,
    film_frames,
    film_samples,
    first_timing,
    next_timing,
    segment_seed,
    sound_spans,
)
from training.audio import sound_clip
from training.films import Film, joined
from training.sync import out_of_tune
from training.world import FPS, FRAMES, HEIGHT, SOUNDS, WIDTH, World, draw

SHAPE = SegmentShape(FRAMES, Fraction(FPS))
OTHER_SOUND = {"low hum": "high hum", "high hum": "low hum"}
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


@dataclass(frozen=True, slots=True)
class Rendered:
    """Segments with their requests."""

    requests: list[SegmentRequest]
    outputs: list[SegmentOutput]

    @property
    def film(self) -> Film:
        """The film of these segments."""
        return joined(self.outputs, [request.timing for request in self.requests])


def tonal_world(seed: int) -> World:
    """A random world with one shape and a tone."""
    rng = np.random.default_rng(seed)
    while True:
        scene, _ = draw(rng)
        if len(scene.shapes) == 1 and SOUNDS[scene.sound]:
            return scene


def with_other_tone(scene: World) -> World:
    """The world with the other of the two tones, one and a half octaves away."""
    return replace(scene, sound=OTHER_SOUND[scene.sound])


def other_way(scene: World) -> World:
    """The world whose shape moves in the opposite direction."""
    shape = scene.shapes[0]
    way = " and ".join(OPPOSITE[part] for part in shape.way.split(" and "))
    return replace(scene, shapes=(replace(shape, way=way),))


def requests_of(prompt: str, count: int, seed: int) -> list[SegmentRequest]:
    """The segments of a film of one scene."""
    timings = [first_timing(SHAPE)]
    while len(timings) < count:
        timings.append(next_timing(timings[-1]))
    return [SegmentRequest(prompt, segment_seed(seed, one.index), WIDTH, HEIGHT, one) for one in timings]


def rendered(engine: Engine, requests: Sequence[SegmentRequest]) -> Rendered:
    """Render segments from state to state."""
    outputs: list[SegmentOutput] = []
    for request in requests:
        outputs.append(engine.run(request, outputs[-1].state if outputs else None))
    return Rendered(list(requests), outputs)


def retaken(
    engine: Engine, old: Rendered, index: int, *, prompt: str, seed: int, pinned: bool = True, crossfade: bool = True
) -> Rendered:
    """The film with segment `index` rendered again from the state before it. Another segment must follow it.

    pinned: whether it is made to lead into the next. crossfade: of its last frames with those that the next repeats.
    """
    before, after = old.outputs[index], old.outputs[index + 1]
    end = PinnedEnd(before.video_latents, before.audio_latents, before.decoding) if pinned else None
    request = replace(old.requests[index], prompt=prompt, seed=seed, end=end)
    new = engine.run(request, old.outputs[index - 1].state if index else None)
    if crossfade:
        count = old.requests[index + 1].timing.skipped_frames
        tail = crossfaded(new.frames[-count:], after.frames[:count])
        new = replace(new, frames=np.concatenate([new.frames[:-count], tail]))
    outputs = [*old.outputs]
    outputs[index] = new
    return Rendered(old.requests, outputs)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is measured of a retaken segment.

    joins: what is out of bounds at the join before it and the one after it, apart from directions, which bounces off
    walls hide. clicks: how many of them click. semitones: the largest step of pitch at a join, NaN without a tone.
    leaps: what is out of bounds inside it. largest_step: of its shape from frame to frame, pixels.
    """

    joins: tuple[list[str], ...]
    clicks: int
    semitones: float
    leaps: list[str]
    largest_step: float


def judged(found: Continuity, index: int) -> Judgement:
    """Measures of segment `index` and its joins."""
    seams = [seam for seam in found.seams if seam.segment in (index, index + 1)]
    wrong = [[text for text in broken([seam]) if not text.endswith("turns or stops")] for seam in seams]
    inside = insides(found)
    return Judgement(
        tuple(wrong),
        sum("clicks" in text for texts in wrong for text in texts),
        max((abs(seam.sound.pitch_step) for seam in seams), default=math.nan),
        leaps([inside[index]]),
        max((shape.largest_step for shape in inside[index].shapes), default=math.nan),
    )


def with_click(film: Film, index: int) -> Film:
    """The film with its sound negated from the change-over to segment `index` on, where it is loudest there."""
    span = sound_spans(film.timings, film.rate)[index]
    around = np.abs(film.sound[:, span.film_start : span.film_start + span.fade_in]).max(0)
    sound = film.sound.copy()
    sound[:, span.film_start + int(around.argmax()) :] *= -1
    return replace(film, sound=sound)


def track_latents(engine: Engine, scene: World, timings: Sequence[SegmentTiming]) -> list[Tensor]:
    """The sound of `scene` as the latents of each segment: encoded once, and cut on the grid that all share."""
    starts = [0]
    for before, after in itertools.pairwise(timings):
        starts.append(starts[-1] + before.audio_latents - after.pinned)
    total = starts[-1] + timings[-1].audio_latents
    mel = torch.from_numpy(sound_clip(scene, 0.0, 4 * total - 3).mel)[None]
    with torch.inference_mode():
        raw = engine.pipeline.audio_vae.encode(mel).latent_dist.mode()
        latents = engine.pipeline.normalize_audio(raw.float())
    return [
        latents[:, :, start : start + one.audio_latents].clone() for start, one in zip(starts, timings, strict=True)
    ]


def to_track(film: Film, scene: World) -> list[float]:
    """Per segment, the median of semitones from the sound of `scene` to the height of the film's shape."""
    samples = film_samples(film_frames(film.timings), Fraction(FPS), film.rate)
    sounding = replace(film, sound=scene.samples(0.0, samples, film.rate))
    return out_of_tune(sounding.continuity(), sounding, scene)


def state_in(engine: Engine, scene: World, like: LTX2ContinuationState) -> LTX2ContinuationState:
    """The state after a first segment that shows `scene` as it is. like: any state after a first segment."""
    (sound,) = track_latents(engine, scene, [first_timing(SHAPE)])
    frames = scene.frames((FRAMES - SHAPE.overlap) / FPS, SHAPE.overlap)
    return replace(like, video_frames=list(frames), audio_latents=sound)


def off_at(frames: NDArray[np.uint8], image: PlacedImage) -> float:
    """Pixels from the shape in its frame to its place in the image; NaN if it is lost."""
    pair: list[Any] = [track(frames), track(np.stack([image.pixels]))]
    if not all(pair):
        return math.nan
    there, wanted = pair[0][0].centres[image.frame], pair[1][0].centres[0]
    return float(np.linalg.norm(there - wanted))
