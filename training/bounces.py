"""Which of two paths leads to a still: the straight one, or the one that bounced off a wall before.

A still shows where a shape is at one moment, and the prompt where it moves at the start of the segment. If it may have
bounced in between, there are two places where it can have started. Both are equally probable, so half of the range of
the noise's number for the place stands for each of them, and each noise still has one right answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training import world
from training.patterns import Pattern


def decided(
    rng: np.random.Generator, scene: world.World, lots: NDArray[np.float64], pattern: Pattern
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The LOTS numbers that the noise of a first segment encodes, and which of them are tied to it."""
    lots, tied = lots.copy(), pattern.tied(scene)
    if (still := pattern.only_still) is None:
        return lots, tied
    for index, shape in enumerate(scene.shapes):
        for axis, way in enumerate(world.DIRECTIONS[shape.way]):
            lot = 4 * index + 2 + axis
            other = other_start(shape, axis, way * shape.speed * still / world.FPS)
            if lot not in pattern.heard(scene) and other is not None:
                lots[lot] = rng.uniform(0, 0.5) + (0.5 if (shape.x, shape.y)[axis] > other else 0)
                tied[lot] = True
    return lots, tied


def other_start(shape: world.Shape, axis: int, moved: float) -> float | None:
    """The other place along an axis, 0 for x and 1 for y, from which a shape gets to where it is; None without one.

    moved: pixels along the axis, apart from bounces; less than the distance of the walls.
    """
    low, high = shape.radius, (world.WIDTH, world.HEIGHT)[axis] - shape.radius
    start = (shape.x, shape.y)[axis]
    wall = high if moved > 0 else low
    mirrored = 2 * wall - (start + moved) - moved  # the end of the path, mirrored at the wall that it moves to
    return mirrored if moved and low <= mirrored <= high else None
