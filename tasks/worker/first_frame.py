"""The image with which the first segment of a job begins."""

from __future__ import annotations

from ltx2.state.png import Frame, decode_png
from tasks.errors import SpecError
from tasks.jobs.records import START_INDEX, Claim
from tasks.spec.schema import JobHead
from tasks.worker.context import WorkerContext
from tasks.worker.failures import reading_from


def first_frame(context: WorkerContext, head: JobHead, claim: Claim) -> Frame | None:
    """The image with which segment `claim.index` begins, uint8 `[H, W, 3]`; None for all but the first of a job.

    Raises:
        InputLostError: its blob is missing or damaged. SpecError: the blob is no picture.
    """
    if head.image is None or claim.index > 0:
        return None
    with reading_from(START_INDEX):
        data = context.deployment.blobs.get(head.image)
    try:
        return decode_png(data)
    except ValueError as error:
        raise SpecError(f"image: the blob {head.image} of the job's record holds no picture: {error}") from None
