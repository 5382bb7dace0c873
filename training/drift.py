"""Measure drift: `python training/drift.py` renders long films and plots what changes from segment to segment.

For each setting (conditioning frames, their strength, pinned sound): jumps at joins, differences of colours from the
first segment, joins out of bounds, and the number of shapes left. Writes figures to drift.json, curves to drift.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it also runs as a file

from ltx2.engine import Engine
from ltx2.model.pipeline import LongtakePipeline
from ltx2.quality.continuity import Continuity, broken
from ltx2.quality.plots import Panel, chart
from training.films import render
from training.world import draw


@dataclass(frozen=True, slots=True)
class Setting:
    """How a film is conditioned.

    overlap: conditioning frames. shorter: audio latents of 40 ms by which the pinned sound is shorter than usual.
    strength: of the frames, 0..1; workers support only 1, which keeps them.
    """

    overlap: int = 9
    shorter: int = 0
    strength: float = 1.0

    def __str__(self) -> str:
        frames = f"{self.overlap} frames" + (f" at {self.strength}" if self.strength < 1 else "")
        return f"{frames}, sound {'as usual' if not self.shorter else f'{0.04 * self.shorter:.2f} s less'}"


SETTINGS = (
    Setting(),
    *(Setting(overlap=overlap) for overlap in (1, 17)),
    *(Setting(shorter=shorter) for shorter in (8, 14)),
    *(Setting(strength=strength) for strength in (0.95, 0.8)),
)


@dataclass(frozen=True, slots=True)
class Drift:
    """Measures of a film, per segment after the first.

    excess: pixels of motion at its join beyond the usual. colours: mean distance of its shapes' colours from those of
    the first segment, 0..441. shapes: how many are left. broken: how many measures are out of bounds.
    """

    excess: list[float]
    colours: list[float]
    shapes: list[int]
    broken: list[int]


def drift_of(found: Continuity) -> Drift:
    """The drift of a film."""
    first = [track.colour for track in found.segments[0].tracks]
    excess, colours, shapes, wrong = [], [], [], []
    for seam, segment in zip(found.seams, found.segments[1:], strict=True):
        jumps = [shape.jump - shape.usual_jump for shape in seam.shapes]
        excess.append(_mean(jumps))
        near = [min(float(np.linalg.norm(track.colour - one)) for one in first) for track in segment.tracks if first]
        colours.append(_mean(near))
        shapes.append(len(segment.tracks))
        wrong.append(len(broken([seam])))
    return Drift(excess, colours, shapes, wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--segments", type=int, default=50)
    parser.add_argument("--films", type=int, default=3, help="worlds per setting")
    parser.add_argument("--out", type=Path, default=Path("out/drift"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    engine = Engine.load(options.model)
    figures, drawn = {}, []
    for setting in SETTINGS:
        films = []
        for seed in range(options.films):
            prompt = draw(np.random.default_rng(seed))[0].prompt
            with conditioned_at(setting.strength, engine.pipeline):
                film = render(
                    engine,
                    [prompt] * options.segments,
                    seed=1000 * seed,
                    overlap=setting.overlap,
                    shorter=setting.shorter,
                )
            films.append(drift_of(film.continuity()))
        figures[str(setting)] = [vars_of(one) for one in films]
        drawn.append((str(setting), films))
        print(_row(str(setting), films), flush=True)
    (options.out / "drift.json").write_text(json.dumps(figures, indent=1) + "\n")
    (options.out / "drift.png").write_bytes(chart(_panels(drawn), Continuity([], []), 1.0))


@contextmanager
def conditioned_at(strength: float, pipeline: LongtakePipeline) -> Iterator[None]:
    """Make `pipeline` condition on frames with `strength`, whatever its arguments say."""

    def apply(
        latents: Tensor, mask: Tensor, clean: list[Tensor], strengths: list[float], *args: Any, **kwargs: Any
    ) -> Any:
        return stock(latents, mask, clean, [strength] * len(strengths), *args, **kwargs)

    stock = pipeline.apply_first_frame_conditioning
    pipeline.apply_first_frame_conditioning = apply  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del pipeline.apply_first_frame_conditioning


def vars_of(one: Drift) -> dict[str, list[float | None]]:
    """`one` as plain JSON values."""
    return {
        name: [None if value != value else round(value, 3) for value in getattr(one, name)] for name in one.__slots__
    }


def _row(name: str, films: list[Drift]) -> str:
    joins = [count for film in films for count in film.broken]
    good = sum(not count for count in joins) / len(joins)
    end = _mean([film.colours[-1] for film in films])
    return f"{name:34}  joins within bounds {good:4.0%}  colour difference at the end {end:5.1f}"


def _mean(values: Sequence[float]) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    known = [float(value) for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")


def _panels(drawn: list[tuple[str, list[Drift]]]) -> list[Panel]:
    def curve(films: list[Drift], name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        values = np.array([getattr(film, name) for film in films], float)
        return np.array([(join, _mean(column)) for join, column in enumerate(values.T, 1)])

    titles = {
        "excess": "pixels beyond usual motion at joins",
        "colours": "colour, distance from the first segment's",
        "broken": "figures out of bounds per join",
    }
    return [
        Panel(f"{title}: {name}", {title: curve(films, figure)})
        for figure, title in titles.items()
        for name, films in drawn
    ]


if __name__ == "__main__":
    main()
