from __future__ import annotations

import numpy as np
import torch

from ltx2.engine import Engine
from ltx2.request import SegmentRequest
from ltx2.timeline import SegmentShape, exact, first_timing


def test_pictures_decoded_in_tiles_differ_a_little_where_tiles_meet() -> None:
    # Given a segment of the trained model that is wider than a tile, decoded as a whole
    engine = Engine.load("shapes", device="cpu")
    timing = first_timing(SegmentShape(9, exact(24), 1))
    output = engine.run(SegmentRequest("a red circle moves left over a blue background", 1, 640, 128, timing))
    # When it is decoded in tiles, as with offload
    engine.pipeline.vae.enable_tiling()
    with torch.inference_mode():
        tiled = engine.decode(output.video_latents, output.audio_latents)[0]
    # Then
    off = np.abs(output.frames.astype(np.int16) - tiled)
    assert 0 < off.max() <= 64
    assert off.mean() < 0.05
