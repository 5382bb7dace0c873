"""How long a film holds: `python training/drift.py` renders long ones and draws what changes from segment to segment.

For each setting (conditioning frames, their strength, pinned sound): jumps at joins, colours against the first
segment's, joins out of bounds, and how many shapes are left. Figures go to drift.json, curves to drift.png.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, it finds the packages beside it

from ltx2.engine import Engine
from ltx2.model.pipeline import LongtakePipeline
from ltx2.quality.continuity import Continuity, broken
from ltx2.quality.plots import Panel, chart
from training.films import render
from training.world import draw


@dataclass(frozen=True, slots=True)
class Setting:
    """overlap: conditioning frames. shorter: audio latents of 40 ms by which the pinned sound is shorter than usual.
    strength: of the frames, 0..1; workers render 1 alone, which keeps them."""

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
class Held:
    """Of one film, per segment after the first: pixels beyond the usual motion at its join; the mean distance of its
    shapes' colours from those of the first segment, 0..441; shapes left; what is out of bounds."""

    excess: list[float]
    colours: list[float]
    shapes: list[int]
    broken: list[int]


def held(found: Continuity) -> Held:
    """What `found` says of holding on."""
    first = [track.colour for track in found.segments[0].tracks]
    excess, colours, shapes, wrong = [], [], [], []
    for seam, segment in zip(found.seams, found.segments[1:], strict=True):
        jumps = [shape.jump - shape.usual_jump for shape in seam.shapes]
        excess.append(_mean(jumps))
        near = [min(float(np.linalg.norm(track.colour - one)) for one in first) for track in segment.tracks if first]
        colours.append(_mean(near))
        shapes.append(len(segment.tracks))
        wrong.append(len(broken([seam])))
    return Held(excess, colours, shapes, wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--segments", type=int, default=50)
    parser.add_argument("--films", type=int, default=3, help="worlds per setting")
    parser.add_argument("--out", type=Path, default=Path("out/drift"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    engine = Engine.load(asked.model)
    figures, drawn = {}, []
    for setting in SETTINGS:
        all_held = []
        for seed in range(asked.films):
            prompt = draw(np.random.default_rng(seed))[0].prompt
            with conditioned_at(setting.strength, engine.pipeline):
                film = render(
                    engine,
                    [prompt] * asked.segments,
                    seed=1000 * seed,
                    overlap=setting.overlap,
                    shorter=setting.shorter,
                )
            all_held.append(held(film.continuity()))
        figures[str(setting)] = [vars_of(one) for one in all_held]
        drawn.append((str(setting), all_held))
        print(_row(str(setting), all_held), flush=True)
    (asked.out / "drift.json").write_text(json.dumps(figures, indent=1) + "\n")
    (asked.out / "drift.png").write_bytes(chart(_panels(drawn), Continuity([], []), 1.0))


@contextmanager
def conditioned_at(strength: float, pipeline: LongtakePipeline) -> Iterator[None]:
    """Let `pipeline` condition on frames with `strength`, whatever it is told."""

    def apply(
        latents: Tensor, mask: Tensor, clean: list[Tensor], strengths: list[float], *args: Any, **kwargs: Any
    ) -> Any:
        return stock(latents, mask, clean, [strength] * len(strengths), *args, **kwargs)

    stock = pipeline.apply_first_frame_conditioning
    pipeline.apply_first_frame_conditioning = apply
    try:
        yield
    finally:
        del pipeline.apply_first_frame_conditioning


def vars_of(one: Held) -> dict[str, list[float | None]]:
    """`one` as JSON takes it."""
    return {
        name: [None if value != value else round(value, 3) for value in getattr(one, name)] for name in one.__slots__
    }


def _row(name: str, films: list[Held]) -> str:
    joins = [count for film in films for count in film.broken]
    good = sum(not count for count in joins) / len(joins)
    end = _mean([film.colours[-1] for film in films])
    return f"{name:34}  joins within bounds {good:4.0%}  colour off at the end {end:5.1f}"


def _mean(values: Sequence[float]) -> float:
    """The mean of what is a number; NaN where nothing is."""
    known = [float(value) for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")


def _panels(drawn: list[tuple[str, list[Held]]]) -> list[Panel]:
    def curve(films: list[Held], name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
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
