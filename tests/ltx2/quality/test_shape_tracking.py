"""Finding and tracking shapes in simple frames; other frames have none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ltx2.quality.shape_tracking import track
from training.world import FPS, Shape, World

WHITE = Shape("square", "white", "left", "", 15, 50, 150, 30)
BLACK = Shape("triangle", "black", "right", "", 18, 40, 40, 95)


@pytest.mark.parametrize("kind", ["circle", "square", "triangle"])
def test_a_shape_is_tracked_to_half_a_pixel(kind: str) -> None:
    # Given
    shape = Shape(kind, "yellow", "right", "", 16, 40, 60, 70)
    # When
    (found,) = track(World((shape,), "black", "silence").frames(0, 25))
    # Then
    x, y = shape.centre(np.arange(25) / FPS)
    below = 0.0 if kind != "triangle" else float(np.mean(found.centres[:, 1] - y))
    assert found.kind == kind
    assert np.abs(found.centres[:, 0] - x).max() < 0.5
    assert np.abs(found.centres[:, 1] - y - below).max() < 0.5
    assert abs(below) < 3
    assert found.colour == pytest.approx((240, 208, 60), abs=12)


def test_soft_edges_and_noise_make_no_shapes() -> None:
    # Given soft edges that contain the colour of another shape, as green is between cyan and black
    shapes = (replace(WHITE, kind="circle", colour="cyan"), replace(BLACK, colour="green"))
    sharp, rng = World(shapes, "black", "silence").frames(0, 9), np.random.default_rng(0)
    blurred = [np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(1.5)), np.float32) for frame in sharp]
    soft = np.clip(np.stack(blurred) + rng.normal(0, 5, sharp.shape), 0, 255).astype(np.uint8)
    # When
    found = track(soft)
    # Then
    assert sorted(one.kind for one in found) == ["circle", "triangle"]
    for one in found:
        shape = shapes[0] if one.kind == "circle" else shapes[1]
        x, _ = shape.centre(np.arange(9) / FPS)
        assert np.abs(one.centres[:, 0] - x).max() < 0.5
        assert one.whole.all()


def test_a_shape_is_whole_only_away_from_the_other() -> None:
    # Given a circle that passes in front of another
    passing = (
        Shape("circle", "black", "right", "quickly", 16, 72, 40, 64),
        Shape("circle", "white", "left", "slowly", 16, 24, 110, 64),
    )
    # When
    found = track(World(passing, "cyan", "silence").frames(0, 48))
    # Then
    black, white = sorted(found, key=lambda one: one.colour[0])
    times = np.arange(48) / FPS
    gap = np.hypot(*np.subtract(passing[0].centre(times), passing[1].centre(times))) - 32
    for one in (black, white):
        assert one.whole[gap > 4].all()
        # where the one in front hides the other completely, it is whole
        assert not one.whole[(gap < 0) & ~np.isnan(white.areas)].any()
        assert one.kind == "circle"


def test_known_shapes_come_first_even_if_hardly_visible() -> None:
    # Given a circle that hides all but a strip of a square
    hiding = (replace(WHITE, kind="circle", colour="black", radius=20.0, x=140.0), replace(WHITE, radius=13.0, x=154.0))
    frames = World(hiding, "cyan", "silence").frames(0, 3)
    white, yellow = np.array([240.0, 240, 236]), np.array([240.0, 208, 60])
    # When / Then
    assert [one.colour[0] < 100 for one in track(frames)] == [True]
    assert [one.colour[0] < 100 for one in track(frames, [white])] == [False, True]
    assert [one.colour[0] < 100 for one in track(frames, [yellow])] == [True]  # known, but not in these frames


def test_a_large_frame_is_tracked_on_every_other_pixel() -> None:
    # Given
    frames = World((WHITE,), "green", "silence").frames(0, 9)
    large = np.repeat(np.repeat(frames, 4, axis=1), 4, axis=2)
    # When
    (one,), (four,) = track(frames), track(large)
    # Then
    assert four.kind == one.kind
    assert four.centres == pytest.approx(4 * one.centres, abs=3)
    assert four.areas == pytest.approx(16 * one.areas, rel=0.05)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.tuples(st.integers(1, 5), st.integers(1, 70), st.integers(1, 70)), st.integers(1, 256))
def test_any_frames_are_accepted(seed: int, size: tuple[int, int, int], levels: int) -> None:
    # Given
    frames = np.random.default_rng(seed).integers(0, levels, (*size, 3), np.uint8)
    # When
    found = track(frames, [np.array([200.0, 200, 200])])
    # Then
    for one in found or []:
        assert one.centres.shape == (len(frames), 2)
        assert np.isfinite(one.colour).all()
        assert not one.whole[np.isnan(one.areas)].any()


def frames_where(inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Three frames that are white where `inside` is true, and black elsewhere."""
    frame = np.repeat(np.where(inside, 255, 0)[..., None], 3, axis=2).astype(np.uint8)
    return np.stack([frame] * 3)


def test_rings_and_large_areas_are_not_tracked() -> None:
    rows, columns = np.indices((128, 192))
    away = np.hypot(rows - 64, columns - 96)
    assert len(track(frames_where(away < 20))) == 1
    assert track(frames_where(away < 0)) == []
    assert track(frames_where(abs(away - 40) < 1)) is None  # a ring
    assert track(frames_where(columns < 80)) is None  # too large
    assert track(frames_where((rows % 16 < 4) & (columns % 16 < 4))) is None  # many
