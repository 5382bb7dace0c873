"""Loads the images that a segment shows."""

from __future__ import annotations

from ltx2.request import PlacedImage
from ltx2.state.png import Frame, decode_png
from tasks.errors import SpecError
from tasks.jobs.results import Claim
from tasks.jobs.units import START_INDEX
from tasks.worker.claims.failures import reading_from
from tasks.worker.context import WorkerContext


def images_of(context: WorkerContext, claim: Claim) -> tuple[Frame | None, tuple[PlacedImage, ...]]:
    """Load the image that a segment starts from, uint8 `[H, W, 3]`, None without one, and those at its other frames.

    Raises:
        InputLostError: a blob is missing or damaged. SpecError: a blob is not an image.
    """
    timing, first, others = claim.timing, None, []
    if claim.head.image is not None and claim.index == 0:
        first = _load(context, claim.head.image)
    for image in (claim.segment.images if claim.segment else None) or ():
        pixels = _load(context, image.path)
        if image.frame == 0 and not timing.continued:
            first = pixels
        else:
            others.append(PlacedImage(timing.skipped_frames + image.frame, pixels))
    return first, tuple(others)


def _load(context: WorkerContext, blob_id: str) -> Frame:
    with reading_from(START_INDEX):
        data = context.deployment.blobs.get(blob_id)
    try:
        return decode_png(data)
    except ValueError as error:
        raise SpecError(f"image: blob {blob_id} in the job's record is not an image: {error}") from None
