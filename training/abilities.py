"""Measure what a model does with what it is given: `python training/abilities.py --model FOLDER` prints a table.

Windows of worlds with one shape are rendered in batches, once with what is given, and once without it as a control. In
the eight steps, the transformer gets the arguments that it gets in training.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it also runs as a file

from ltx2.quality.shape_tracking import track
from training import world
from training.latents import Kind, Recorder, Scenes, Windows, draw_scenes
from training.model import Model, load
from training.patterns import Part
from training.transformer import Denoiser, first_coords, predict, tokens_of

_NOTHING = (Part.NOTHING, Part.NOTHING)
Measure = Callable[[Scenes, Windows, NDArray[np.float64], NDArray[np.float64]], list[float]]
"""Pixels or semitones per window, from the shape's centres `[B, 25, 2]` as rendered and as they should be."""


def one_shape(rng: np.random.Generator) -> tuple[world.World, NDArray[np.float64]]:
    """A random world with one shape and a tone."""
    while True:
        scene, lots = world.draw(rng)
        if len(scene.shapes) == 1 and world.SOUNDS[scene.sound]:
            return scene, lots


def at_the_end(_: Scenes, __: Windows, got: NDArray[np.float64], wanted: NDArray[np.float64]) -> list[float]:
    """Pixels between the shape and its given place in the last frame."""
    return [float(value) for value in np.linalg.norm(got - wanted, axis=2)[:, -1]]


def leap(_: Scenes, __: Windows, got: NDArray[np.float64], wanted: NDArray[np.float64]) -> list[float]:
    """The largest step of the shape from frame to frame, less the largest that it should make, in pixels."""
    steps = [np.linalg.norm(np.diff(centres, axis=1), axis=2).max(1) for centres in (got, wanted)]
    return [float(value) for value in steps[0] - steps[1]]


def at_a_still(_: Scenes, windows: Windows, got: NDArray[np.float64], wanted: NDArray[np.float64]) -> list[float]:
    """Pixels between the shape and its place in an appended still, in the still's frame."""
    away, places = np.linalg.norm(got - wanted, axis=2), windows.places.cpu().numpy()
    return [float(row[place]) for row, given in zip(away, places, strict=True) for place in given]


def out_of_tune(_: Scenes, __: Windows, got: NDArray[np.float64], wanted: NDArray[np.float64]) -> list[float]:
    """Semitones between the given tone and the one that the rendered shape's height means, the median of all frames."""
    rows = 12 * np.abs(got - wanted)[:, :, 1] / world.HEIGHT
    return [float(np.median(known)) if len(known := row[~np.isnan(row)]) else float("nan") for row in rows]


ABILITIES: dict[str, tuple[Kind, tuple[Part, Part], Measure]] = {
    "first segment, end given: pixels off at the end": (Kind(None), (Part.END, Part.END), at_the_end),
    "first segment, end given: largest step too large by": (Kind(None), (Part.END, Part.END), leap),
    "continuation, end given: pixels off at the end": (Kind(9), (Part.END, Part.END), at_the_end),
    "continuation, end given: largest step too large by": (Kind(9), (Part.END, Part.END), leap),
    "first segment, still given: pixels off at the still": (Kind(None, 1), _NOTHING, at_a_still),
    "continuation, still given: pixels off at the still": (Kind(9, 1), _NOTHING, at_a_still),
    "first segment, sound given: semitones off": (Kind(None), (Part.NOTHING, Part.ALL), out_of_tune),
    "continuation, sound given: semitones off": (Kind(9), (Part.NOTHING, Part.ALL), out_of_tune),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("ltx2/checkpoints/shapes"))
    parser.add_argument("--windows", type=int, default=16, help="windows per ability")
    parser.add_argument("--out", type=Path, help="JSON file to write all figures to")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    figures = measure(load(options.model), torch.device(options.device), options.windows)
    print(f"{'median (largest), lost shapes':60} given            not given")
    for name, both in figures.items():
        print(f"{name:60} {_summary(both['given']):16} {_summary(both['not given'])}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(figures) + "\n")


def measure(model: Model, device: torch.device, count: int) -> dict[str, dict[str, list[float]]]:
    """Per ability, the figures of `count` windows with what is given, and without; NaN where the shape is lost."""
    denoiser, recorder = Denoiser(model).to(device).eval(), Recorder(model, device)
    coords = first_coords(model.transformer, device)
    figures: dict[str, dict[str, list[float]]] = {}
    for name, (kind, parts, judge) in ABILITIES.items():
        scenes = draw_scenes(np.random.default_rng(7), count, kind, parts, one_shape)
        windows, wanted = recorder.record(scenes), centres(scenes.frames.numpy())
        figures[name] = {}
        for label, given in {"given": windows, "not given": without(windows)}.items():
            got = centres(rendered(model, denoiser, given, coords))
            figures[name][label] = judge(scenes, windows, got, wanted)
    return figures


def without(windows: Windows) -> Windows:
    """The windows with nothing given but the beginning of a continuation."""
    picture, sound = torch.ones_like(windows.picture_mask), torch.ones_like(windows.sound_mask)
    if windows.kind.overlap:
        picture[:, : windows.prefix.shape[2]] = 0
        sound[:, :-18] = 0  # a continuation renders 17 or 18 latents
    return replace(
        windows,
        kind=Kind(windows.kind.overlap),
        stills=windows.stills[:, :, :0],
        places=windows.places[:, :0],
        picture_mask=picture,
        sound_mask=sound,
    )


@torch.no_grad()
def rendered(model: Model, denoiser: Denoiser, windows: Windows, coords: Tensor, seed: int = 0) -> NDArray[np.uint8]:
    """Frames `[B, 25, H, W, 3]` from white noise, in the eight distilled steps."""
    tokens, levels = tokens_of(windows, coords), [*DISTILLED_SIGMA_VALUES, 0.0]
    generator = torch.Generator("cpu").manual_seed(seed)
    masks = tokens.video_mask, tokens.audio_mask
    video, audio = (
        torch.where(mask[..., None] > 0, torch.randn(clean.shape, generator=generator).to(clean), clean)
        for clean, mask in zip((tokens.video, tokens.audio), masks, strict=True)
    )
    for level, after in itertools.pairwise(levels):
        sigma = torch.full((len(video),), level, device=video.device)
        moves = predict(denoiser, video, audio, sigma, *masks, tokens.coords, windows.hidden, windows.mask)
        video, audio = (
            x + (after - level) * v.float() * mask[..., None]
            for x, v, mask in zip((video, audio), moves, masks, strict=True)
        )
    return decoded(model.vae, video[:, : tokens.video_mask.shape[1] - 24 * windows.kind.stills])


def decoded(vae: Any, tokens: Tensor) -> NDArray[np.uint8]:
    """Frames of normalised video tokens `[B, 96, C]`."""
    latents = tokens.mT.reshape(*tokens.mT.shape[:2], 4, 4, 6)
    raw = latents * vae.latents_std[None, :, None, None, None] + vae.latents_mean[None, :, None, None, None]
    pictures = vae.decode(raw.float()).sample.float().clamp(-1, 1)
    frames: NDArray[np.uint8] = (127.5 * (pictures + 1)).round().byte().movedim(1, -1).cpu().numpy()
    return frames


def centres(batch: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The centres `[B, 25, 2]` of the most common shape in each window; NaN where there is none."""
    lost = np.full((batch.shape[1], 2), np.nan)
    return np.stack([tracks[0].centres if (tracks := track(frames)) else lost for frames in batch])


def _summary(values: list[float]) -> str:
    known = [value for value in values if value == value]
    if not known:
        return f"all {len(values)} lost"
    return f"{np.median(known):.1f} ({max(known):.1f}), {len(values) - len(known)}"


if __name__ == "__main__":
    main()
