"""Measure how segments join in films of random worlds: `python training/joins.py --model FOLDER` prints a table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it also runs as a file

from ltx2.engine import Engine
from ltx2.quality.continuity import Continuity, broken, not_kept
from training.films import render
from training.sync import out_of_tune
from training.world import COLOURS, World, draw


@dataclass(frozen=True, slots=True)
class Film:
    """What a film of a world is judged by.

    broken: what is out of bounds at its joins, apart from directions. judged, turned: shapes at joins whose direction
    can be measured, and those that changed it. keeps: whether every segment shows the prompt's shapes and no others.
    semitones: between sound and picture, NaN without a tone.
    """

    shapes: int
    broken: list[str]
    judged: int
    turned: int
    keeps: bool
    semitones: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--worlds", type=int, default=40)
    parser.add_argument("--segments", type=int, default=8)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    work = [(options.model, seed, options.segments) for seed in range(options.worlds)]
    with ProcessPoolExecutor(options.processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        films = list(pool.map(film_of, *zip(*work, strict=True)))
    for shapes in (1, 2):
        print(row(shapes, [film for film in films if film.shapes == shapes]), flush=True)
    for seed, film in enumerate(films):
        if film.broken:
            print(f"world {seed}: {'; '.join(film.broken)}")


def film_of(model: str, seed: int, segments: int) -> Film:
    """Render the world of `seed` from state to state on the CPU, and measure it."""
    scene, _ = draw(np.random.default_rng(seed))
    film = render(_engine(model), [scene.prompt] * segments, seed=1000 * seed)
    found = film.continuity()
    shapes = [one for seam in found.seams for one in seam.shapes if not np.isnan(one.ways).any()]
    off = [value for value in out_of_tune(found, film, scene) if value == value]
    return Film(
        len(scene.shapes),
        [text for text in broken(found.seams) if not text.endswith("turns or stops")],
        len(shapes),
        sum(one.turned for one in shapes),
        shows(found, scene) and not not_kept(found),
        float(np.median(off)) if off else float("nan"),
    )


def shows(found: Continuity, scene: World) -> bool:
    """Whether every segment shows the shapes of a world, of their kinds, and no others."""
    wanted = {one.colour: one.kind for one in scene.shapes}
    for segment in found.segments:
        seen = {_nearest(one.colour): one.kind for one in segment.tracks}
        if seen.keys() != wanted.keys() or any(kind not in ("", wanted[colour]) for colour, kind in seen.items()):
            return False
    return True


def row(shapes: int, films: Iterable[Film]) -> str:
    """The figures of all films with this number of shapes, in one line."""
    films = list(films)
    tones = [film.semitones for film in films if film.semitones == film.semitones]
    whole = sum(not film.broken for film in films)
    return (
        f"{shapes} shape{'s' * (shapes > 1)}: {whole} of {len(films)} films with all joins within bounds, "
        f"direction kept {sum(film.judged - film.turned for film in films)} of {sum(film.judged for film in films)}, "
        f"shapes kept {sum(film.keeps for film in films)} of {len(films)}, "
        f"within a semitone {sum(value < 1 for value in tones)} of {len(tones)}"
    )


@cache
def _engine(model: str) -> Engine:
    return Engine.load(model, device="cpu")


def _nearest(colour: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    return min(COLOURS, key=lambda name: float(np.linalg.norm(colour - np.array(COLOURS[name]))))


if __name__ == "__main__":
    main()
