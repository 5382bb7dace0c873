"""Images of segments that are added to a job, or changed in one: read, placed, and stored for it."""

from __future__ import annotations

from collections.abc import Sequence

from blobstore import InMemoryBlobStore
from tasks.client.inputs.start_image import IMAGE_MIME, read_images, with_image_ids
from tasks.deployment import Deployment
from tasks.errors import SpecError
from tasks.jobs.records import Handoff
from tasks.spec.head import JobHead
from tasks.spec.schema import JobSpec
from tasks.spec.segments import SegmentSpec


def read_added_images(
    spec: JobSpec, head: JobHead, there: Sequence[SegmentSpec], *, start: Handoff | None
) -> tuple[list[SegmentSpec], InMemoryBlobStore]:
    """The segments of `spec` with the blob ids of their images, each at its frame, and these images.

    head, there: of the job that they are added to, and its segments. Times count from the start of its film. start:
    the state that it continues.

    Raises:
        SpecError: an image cannot be read, or cannot be where the spec says, as in a segment that the job has.
    """
    undecided = next((index for index, segment in enumerate(there) if segment.is_undecided), None)
    if spec.images and undecided is not None:
        place = spec.source.place("images", 0, "at")
        raise SpecError(
            f"{place}: segment {undecided} of the job has frames: auto and no length yet, so which frame is shown at a "
            "time is not known; name the image in its segment"
        )
    before = [segment.model_copy(update={"images": None}) for segment in there]  # what they show does not count
    fields = {**dict(head), "image": None, "images": spec.images, "segments": [*before, *spec.segments]}
    in_job = spec.model_copy(update=fields)
    images, pending = read_images(in_job, kept=len(there)), InMemoryBlobStore()
    for png in images.values():
        pending.put(png, mime=IMAGE_MIME)
    video_frames = start.first_frame if start else 0
    found = with_image_ids(in_job, images, continues=start is not None, video_frames=video_frames, kept=len(there))
    added = found.segments[len(there) :]
    if head.image and not there and any(not image.frame for image in added[0].images or ()):
        place = spec.source.place("segments", 0)
        raise SpecError(f"{place}: frame 0 of segment 0 shows the image that the job starts from; remove the other one")
    return added, pending


def store_images(
    deployment: Deployment, job_id: str, segments: Sequence[SegmentSpec], pending: InMemoryBlobStore
) -> None:
    """Store the images of these segments for a job, before it needs them. They stay with it if it is not changed."""
    for blob_id in _ids(segments, pending):
        deployment.store_for_job(job_id, pending.get(blob_id), IMAGE_MIME)


def image_bytes(segments: Sequence[SegmentSpec], pending: InMemoryBlobStore) -> int:
    """The bytes of the images of these segments."""
    return sum(pending.info(blob_id).size for blob_id in _ids(segments, pending))


def _ids(segments: Sequence[SegmentSpec], pending: InMemoryBlobStore) -> list[str]:
    shown = [image.path for segment in segments for image in segment.images or ()]
    return [blob_id for blob_id in dict.fromkeys(shown) if blob_id in pending]
