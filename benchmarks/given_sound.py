"""How well pictures follow a given sound: worlds of the small model, whose first shape is as high as the tone.

    python -m benchmarks.given_sound --films 8

Each film has four segments. Its sound is that of a random world with a tone, as a user's track: encoded part by part
and pinned in every segment. The figure is the median of the semitones between the track and the height of the shape; an
octave is the whole height. The controls are the same films with their own sound, and those under the same tracks.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from benchmarks import report
from ltx2.engine import Engine
from ltx2.media.sound_file import encode_flac
from ltx2.media.sources.slices import Blocks, Track, window_of
from ltx2.request import SegmentOutput, SegmentRequest
from ltx2.timeline import SegmentShape, film_samples, plan
from training.films import Film, joined
from training.sync import out_of_tune
from training.world import FPS, FRAMES, HEIGHT, WIDTH, World, draw

SEGMENTS, TRACK_RATE = 4, 44_100
WITHIN = 0.5  # semitones


def track_of(world: World, seconds: float) -> Track:
    """The sound of a world as a track."""
    samples = world.samples(0.0, round(seconds * TRACK_RATE), TRACK_RATE)
    return Track(encode_flac([np.ascontiguousarray(samples.T)], TRACK_RATE))


def film_of(engine: Engine, world: World, seed: int, track: Track | None, *, segments: int = SEGMENTS) -> Film:
    """A film of a world, with its own sound or with a given one, which its film then has."""
    timings = plan(SegmentShape(FRAMES, Fraction(FPS)), [False] * segments)
    outputs: list[SegmentOutput] = []
    for timing in timings:
        sound = None
        if track is not None:
            window = window_of(timing)
            sound = engine.encode_sound(track.window(window), timing.audio_latents, lead=window.lead)
        request = SegmentRequest(world.prompt, seed + timing.index, WIDTH, HEIGHT, timing, sound=sound)
        outputs.append(engine.run(request, outputs[-1].state if outputs else None))
    film = joined(outputs, timings)
    return film if track is None else with_track(film, track)


def with_track(film: Film, track: Track) -> Film:
    """The same pictures over a track."""
    samples = film_samples(sum(map(len, film.pieces)), Fraction(FPS), film.rate)
    return Film(film.pieces, np.ascontiguousarray(Blocks(track.at(film.rate)).take(samples).T), film.rate, film.timings)


def main() -> None:
    parser = report.parser(__doc__ or "", "given_sound")
    parser.add_argument("--films", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    engine = Engine.load("shapes", device="cpu")
    rng = np.random.default_rng(options.seed)
    worlds: list[World] = []
    while len(worlds) < options.films:
        world, _ = draw(rng)
        if world.sound != "silence" and len(world.shapes) == 1:
            worlds.append(world)
    tuned: dict[str, list[list[float]]] = {"own sound": [], "a track that is not given": [], "a given track": []}
    for seed, world in enumerate(worlds):
        track = track_of(world, 10.0)
        own = film_of(engine, world, seed, None)
        films = own, with_track(own, track), film_of(engine, world, seed, track)
        for found, film in zip(tuned.values(), films, strict=True):
            found.append(out_of_tune(film.continuity(), film, world))
    report.write("given_sound", [row_of(name, found) for name, found in tuned.items()], options.json)


def row_of(name: str, found: list[list[float]]) -> dict[str, object]:
    """Medians per segment, the largest value, and the films that are within half a semitone in every segment."""
    values = np.array(found)
    medians = {f"segment {index}": float(value) for index, value in enumerate(np.nanmedian(values, axis=0))}
    within = int((values <= WITHIN).all(axis=1).sum())
    return {"film": name, **medians, "largest": float(np.nanmax(values)), "within": f"{within} of {len(values)}"}


if __name__ == "__main__":
    main()
