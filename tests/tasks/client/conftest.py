"""A video to extend."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ltx2.media.sources.videos import numbered, tone, video

COUNT = 30


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 30 frames with sound."""
    path = tmp_path_factory.mktemp("videos") / "harbour.mp4"
    path.write_bytes(video(numbered(COUNT), sound=tone(COUNT / 24)))
    return path
