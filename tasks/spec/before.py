"""`before: true` in a spec: the last segment leads into the beginning of a video."""

from __future__ import annotations

from collections.abc import Sequence

from ltx2.timeline import TEMPORAL_COMPRESSION, latent_frames, shared_frames
from tasks.field_errors import FieldError
from tasks.spec.head import JobHead
from tasks.spec.segments import SegmentSpec


def check_before(job: JobHead, segments: Sequence[SegmentSpec], *, is_open: bool) -> None:
    """Check that the last segment can lead into a video, if the job asks for it. FieldError: names the field."""
    if not job.before:
        return
    if is_open:
        raise FieldError(
            "before", "an open job has no last segment that could lead into a video; remove one of the two"
        )
    if not segments:
        return
    index, last = len(segments) - 1, segments[-1]
    if last.end_image is not None:
        raise FieldError(
            ("segments", index, "end_image"), "the last segment ends with the video that follows; remove it"
        )
    has_image = (job.image if index == 0 else None) or last.image or any(not one.frame for one in last.images or ())
    repeated = last.overlap or job.overlap if index > 0 and not last.is_new_scene else int(bool(has_image))
    shared, frames = shared_frames(job.overlap), job.shared.shortest(last)
    fewest = TEMPORAL_COMPRESSION * (latent_frames(repeated) if repeated else 0) + shared
    if frames < fewest:
        raise FieldError(
            ("segments", index, "frames") if last.frames or last.auto_frames else "frames",
            f"{frames} of the last segment are too few to lead into a video: the first {repeated} and last {shared} "
            f"are given; it needs at least {fewest}",
        )


def shown_by_video(job: JobHead) -> int:
    """How many frames at the end of the last segment show nothing but the video that follows."""
    return shared_frames(job.overlap) - 1 if job.before else 0
