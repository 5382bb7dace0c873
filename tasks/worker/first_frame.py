"""Loads the image that the first segment of a job starts from."""

from __future__ import annotations

from ltx2.state.png import Frame, decode_png
from tasks.errors import SpecError
from tasks.jobs.results import Claim
from tasks.jobs.units import START_INDEX
from tasks.spec.schema import JobHead
from tasks.worker.context import WorkerContext
from tasks.worker.failures import reading_from


def first_frame(context: WorkerContext, head: JobHead, claim: Claim) -> Frame | None:
    """Load the image that a segment starts from, uint8 `[H, W, 3]`; None without one.

    Raises:
        InputLostError: its blob is missing or damaged. SpecError: the blob is not an image.
    """
    if head.image is None or claim.index > 0:
        return None
    with reading_from(START_INDEX):
        data = context.deployment.blobs.get(head.image)
    try:
        return decode_png(data)
    except ValueError as error:
        raise SpecError(f"image: blob {head.image} in the job's record is not an image: {error}") from None
