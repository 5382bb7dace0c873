"""The world of the training clips: shapes that fly over a background and bounce off its walls, and a tone.

Everything is a function of time, so a clip from any moment on is the exact continuation of an earlier one. Positions
are pixels from the upper left corner, times are seconds, frequencies hertz.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, FPS = 192, 128, 24
FRAMES = 25
"""Frames per segment, in training and in rendering."""

KINDS = ("circle", "square", "triangle")
COLOURS = {
    "red": (214, 48, 42),
    "green": (52, 160, 72),
    "blue": (44, 84, 204),
    "yellow": (240, 208, 60),
    "purple": (140, 64, 176),
    "cyan": (72, 196, 214),
    "white": (240, 240, 236),
    "black": (24, 24, 28),
}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
DIRECTIONS |= {f"{v} and {h}": (x, y) for v, (_, y) in (("up", (0, -1)), ("down", (0, 1)))
               for h, x in (("left", -1), ("right", 1))}  # fmt: skip
PACES = {"slowly": (24.0, 36.0), "": (36.0, 54.0), "quickly": (54.0, 72.0)}
"""Lowest and highest speed along each axis on which a shape moves, in pixels per second."""
SOUNDS: dict[str, float | None] = {"low hum": 300.0, "high hum": 900.0, "silence": None}
"""The tone's frequency when the first shape is at the lower wall; it is an octave higher at the upper wall."""

RADII = (18.0, 26.0)
LOUDNESS = 0.4
_ACROSS, _DOWN = np.arange(WIDTH, dtype=np.float32)[None] + 0.5, np.arange(HEIGHT, dtype=np.float32)[:, None] + 0.5
_RESOLUTION = 4_800  # samples per second at which the tone's phase is integrated, for any output rate


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape: its kind, its colour, its centre at time 0, and its initial direction and speed.

    way, pace: keys of DIRECTIONS and PACES. radius: of the circle; squares and triangles have about the same size.
    speed: pixels per second along each axis of `way`.
    """

    kind: str
    colour: str
    way: str
    pace: str
    radius: float
    speed: float
    x: float
    y: float

    def centre(self, times: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The centre at these times, `[T]` for x and y. A shape turns when its circle touches a wall."""
        dx, dy = DIRECTIONS[self.way]
        return (
            _reflect(self.x + dx * self.speed * times, self.radius, WIDTH - self.radius),
            _reflect(self.y + dy * self.speed * times, self.radius, HEIGHT - self.radius),
        )

    def __str__(self) -> str:
        pace = f" {self.pace}" if self.pace else ""
        return f"a {self.colour} {self.kind} moves{pace} {self.way}"


@dataclass(frozen=True, slots=True)
class World:
    """One or two shapes, the first in front, a background colour, and a key of SOUNDS."""

    shapes: tuple[Shape, ...]
    background: str
    sound: str

    @property
    def prompt(self) -> str:
        """The prompt. It does not define a shape's initial position, size and exact speed."""
        return f"{' and '.join(map(str, self.shapes))} over a {self.background} background, {self.sound}"

    def frames(self, start: float, count: int) -> NDArray[np.uint8]:
        """RGB frames `[count, 128, 192, 3]` from time `start` on. Edges are smooth over one pixel."""
        times = start + np.arange(count) / FPS
        images = np.empty((count, HEIGHT, WIDTH, 3), np.float32)
        images[:] = COLOURS[self.background]
        for shape in reversed(self.shapes):
            colour = np.asarray(COLOURS[shape.colour], np.float32)
            for image, x, y in zip(images, *shape.centre(times), strict=True):
                box = _box(x, y, shape.radius)
                cover = _cover(shape.kind, shape.radius, _ACROSS[:, box[1]] - x, _DOWN[box[0]] - y)
                image[box] += cover[..., None] * (colour - image[box])
        return np.rint(images).astype(np.uint8)

    def samples(self, start: float, count: int, rate: int) -> NDArray[np.float32]:
        """Stereo sound `[2, count]`, -1..1, `rate` samples per second, from time `start` on, which may be negative."""
        base = SOUNDS[self.sound]
        if base is None:
            return np.zeros((2, count), np.float32)
        times = start + np.arange(count) / rate
        tone = np.sin(self._phase(base, times))
        return np.stack([gain * tone for gain in self.gains(times)]).astype(np.float32)

    def gains(self, times: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The tone's amplitude left and right, `[T]` each, 0..LOUDNESS; the total power is constant."""
        x, _ = self.shapes[0].centre(times)
        angle = np.pi / 2 * x / WIDTH
        return LOUDNESS * np.cos(angle), LOUDNESS * np.sin(angle)

    def pitch(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """The tone's frequency at these times, `[T]`; 0 for silence."""
        base = SOUNDS[self.sound]
        if base is None:
            return np.zeros_like(times)
        _, y = self.shapes[0].centre(times)
        return pitch_at(base, y)

    def _phase(self, base: float, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """The integral of the pitch from time 0, so that clips of one world join without a phase jump."""
        first, last = (math.floor(min(0.0, times[0]) * 10) / 10, max(0.0, times[-1]))
        grid = first + np.arange(math.ceil((last - first) * _RESOLUTION) + 2) / _RESOLUTION
        total = np.cumsum(self.pitch(grid)) / _RESOLUTION
        return np.asarray(2 * np.pi * (np.interp(times, grid, total) - np.interp(0.0, grid, total)))


def pitch_at(base: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The tone's frequency when the first shape's centre is at `y`: an octave from the lower wall to the upper one."""
    return np.asarray(base * 2 ** (1 - y / HEIGHT))


LOTS = 8
"""How many numbers in 0..1 define what a prompt does not: position, size and speed of two shapes."""


def draw(rng: np.random.Generator) -> tuple[World, NDArray[np.float64]]:
    """A random world, and the LOTS numbers that define what its prompt does not."""
    lots = rng.random(LOTS)
    colours = rng.permutation(list(COLOURS))
    shapes = tuple(
        settle(
            str(rng.choice(KINDS)),
            str(colours[index]),
            str(rng.choice(list(DIRECTIONS))),
            str(rng.choice(list(PACES))),
            lots[4 * index : 4 * index + 4],
        )
        for index in range(int(rng.integers(1, 3)))
    )
    sound = str(rng.choice(list(SOUNDS), p=(0.4, 0.4, 0.2)))
    return World(shapes, str(colours[2]), sound), lots


def settle(kind: str, colour: str, way: str, pace: str, lots: NDArray[np.float64]) -> Shape:
    """The shape for a prompt's words and four numbers in 0..1."""
    radius = _between(lots[0], *RADII)
    return Shape(
        kind,
        colour,
        way,
        pace,
        radius,
        _between(lots[1], *PACES[pace]),
        _between(lots[2], radius, WIDTH - radius),
        _between(lots[3], radius, HEIGHT - radius),
    )


def _between(lot: float, low: float, high: float) -> float:
    return float(low + lot * (high - low))


def _reflect(path: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """A straight path, reflected at walls at `low` and `high`."""
    span = high - low
    return np.asarray(low + span - np.abs((path - low) % (2 * span) - span))


def _box(x: float, y: float, radius: float) -> tuple[slice, slice]:
    """Rows and columns that contain a shape at x, y."""
    reach = math.ceil(1.3 * radius) + 1
    return slice(max(0, int(y) - reach), int(y) + reach), slice(max(0, int(x) - reach), int(x) + reach)


def _cover(kind: str, radius: float, across: NDArray[np.float32], down: NDArray[np.float32]) -> NDArray[np.float32]:
    """The part of each pixel that a shape covers, 0..1. across, down: offsets from its centre, `[1, W]`, `[H, 1]`."""
    if kind == "circle":
        outside = np.hypot(across, down) - radius
    elif kind == "square":
        outside = np.maximum(np.abs(across), np.abs(down)) - 0.886 * radius
    else:  # the distance from the centre of an equilateral triangle to its sides
        slanted = (math.sqrt(3) * np.abs(across) - down) / 2
        outside = np.maximum(slanted, down) - 0.62 * radius
    return np.asarray(np.clip(0.5 - outside, 0, 1), np.float32)
