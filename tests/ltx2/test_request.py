from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from ltx2.errors import RequestError
from ltx2.request import PinnedEnd, PlacedImage, SegmentRequest, VideoAfter, free_latents
from ltx2.timeline import SegmentShape, SegmentTiming, first_timing, next_timing

FIRST = first_timing(SegmentShape(25, Fraction(24)))
NEXT = next_timing(FIRST)
PIXELS = np.zeros((64, 96, 3), np.uint8)


def request(timing: SegmentTiming = NEXT, **parts: Any) -> SegmentRequest:
    return SegmentRequest("a boat", 1, 96, 64, timing, **parts)


def end(timing: SegmentTiming = NEXT, **parts: Any) -> PinnedEnd:
    video, audio = torch.zeros(1, 16, 4, 2, 3), torch.zeros(1, 8, timing.audio_latents, 16)
    return replace(PinnedEnd(video, audio), **parts)


def video(frames: int, *, size: tuple[int, int] = (64, 96), sounds: int = 9) -> VideoAfter:
    return VideoAfter(np.zeros((frames, *size, 3), np.uint8), torch.zeros(1, 8, sounds, 16))


def test_a_segment_takes_an_end_images_and_sound() -> None:
    # When
    images = (PlacedImage(9, PIXELS), PlacedImage(16, PIXELS), PlacedImage(10, PIXELS, strength=0))
    whole = request(end=end(), images=images, sound=torch.zeros(1, 8, NEXT.audio_latents, 16))
    # Then an image of strength 0 is left out
    assert [placed.frame for placed in whole.images] == [9, 16]
    # And the free part lies between the repeated frames and the pinned latent
    assert whole.free_frames == range(9, 17)
    assert request(FIRST).free_frames == range(1, 25)
    # And an end may be as long as leaves one latent to render
    assert free_latents(NEXT) == (2, NEXT.audio_latents - NEXT.pinned)
    assert free_latents(FIRST, image=True) == (3, FIRST.audio_latents)
    request(end=end(audio_count=NEXT.audio_latents - NEXT.pinned - 1))
    request(FIRST, image=PIXELS, end=end(FIRST, video_count=2))
    assert request(end=video(9, sounds=0)).free_frames == range(9, 17)


SHORT = next_timing(first_timing(SegmentShape(17, Fraction(24))))
REJECTED = {
    "no latent left": (NEXT, {"end": end(video_count=2)}, r"end\.video_count is 2; segment 1 can have 1\.\.1"),
    "no latent": (NEXT, {"end": end(video_count=0)}, r"end\.video_count is 0; segment 1 can have 1\.\.1"),
    "no latent left after an image": (
        FIRST,
        {"image": PIXELS, "end": end(FIRST, video_count=3)},
        r"end\.video_count is 3; segment 0 can have 1\.\.2",
    ),
    "no sound left": (NEXT, {"end": end(audio_count=17)}, r"end\.audio_count is 17; segment 1 can have 0\.\.16"),
    "too short": (
        SHORT,
        {"end": PinnedEnd(torch.zeros(1, 16, 3, 2, 3), torch.zeros(1, 8, SHORT.audio_latents, 16))},
        "segment 1 is too short for a pinned end",
    ),
    "another size": (
        NEXT,
        {"end": end(video_latents=torch.zeros(1, 16, 4, 4, 3))},
        r"end\.video_latents has the shape \[1, 16, 4, 4, 3\]; it must be \[1, 16, 4, 2, 3\]",
    ),
    "no latents": (NEXT, {"end": end(video_latents=torch.zeros(4))}, r"it must be \[1, C, 4, 2, 3\]"),
    "another length of sound": (NEXT, {"end": end(FIRST)}, r"end\.audio_latents has the shape \[1, 8, 26, 16\]"),
    "NaN": (NEXT, {"end": end(video_latents=torch.full((1, 16, 4, 2, 3), torch.nan))}, r"end\.video_latents has .*fin"),
    "video of another size": (NEXT, {"end": video(9, size=(32, 32))}, r"end\.pictures is uint8 \(9, 32, 32, 3\)"),
    "one frame of a video": (NEXT, {"end": video(1)}, r"end\.video_count is 0; segment 1 can have 1\.\.1"),
    "a long video": (NEXT, {"end": video(17)}, r"end\.video_count is 2; segment 1 can have 1\.\.1"),
    "sound of a video": (NEXT, {"end": video(9, sounds=17)}, r"end\.audio_count is 17; segment 1 can have 0\.\.16"),
    "repeated frame": (NEXT, {"images": (PlacedImage(8, PIXELS),)}, r"images\[0\]\.frame is 8; .* at 9\.\.24"),
    "first frame": (FIRST, {"images": (PlacedImage(0, PIXELS),)}, r"images\[0\]\.frame is 0; .* at 1\.\.24"),
    "after the end": (FIRST, {"images": (PlacedImage(25, PIXELS),)}, r"images\[0\]\.frame is 25; .* at 1\.\.24"),
    "pinned frame": (NEXT, {"end": end(), "images": (PlacedImage(17, PIXELS),)}, r"frame is 17; .* at 9\.\.16"),
    "twice": (NEXT, {"images": (PlacedImage(9, PIXELS),) * 2}, r"images\[1\]\.frame is 9, as that of another image"),
    "weak": (NEXT, {"images": (PlacedImage(9, PIXELS, 0.5),)}, r"images\[0\]\.strength is 0\.5; it must be 0 or 1"),
    "another picture": (NEXT, {"images": (PlacedImage(9, PIXELS[:32]),)}, r"images\[0\] is uint8 \(32, 96, 3\)"),
    "too many": (
        NEXT,
        {"images": tuple(PlacedImage(9 + i, PIXELS) for i in range(9))},
        "images has 9 images; a segment can have 8",
    ),
    "short sound": (NEXT, {"sound": torch.zeros(1, 8, 9, 16)}, r"sound has the shape \[1, 8, 9, 16\]; it must be"),
    "whole numbers": (
        NEXT,
        {"sound": torch.zeros(1, 8, NEXT.audio_latents, 16, dtype=torch.int64)},
        "sound has values",
    ),
}


@pytest.mark.parametrize("name", REJECTED)
def test_what_a_segment_cannot_be_given_is_rejected_by_name(name: str) -> None:
    timing, parts, message = REJECTED[name]
    with pytest.raises(RequestError, match=message):
        request(timing, **parts)
