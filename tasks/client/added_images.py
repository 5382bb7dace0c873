"""Images of segments that are added to a job, or changed in one: read, placed, and stored for it."""

from __future__ import annotations

from collections.abc import Sequence

from blobstore import InMemoryBlobStore
from tasks.client.start_image import IMAGE_MIME, read_images, with_image_ids
from tasks.deployment import Deployment
from tasks.errors import SpecError
from tasks.spec.head import JobHead
from tasks.spec.schema import JobSpec
from tasks.spec.segments import SegmentSpec


def read_added_images(spec: JobSpec, head: JobHead, *, continues: bool) -> tuple[list[SegmentSpec], InMemoryBlobStore]:
    """The segments of `spec` with the blob ids of their images, each at its frame, and these images.

    head: of the job that they are added to. continues: there is something before them.

    Raises:
        SpecError: an image at a time of the film, which these segments are a part of; one that cannot be read, or that
        cannot be where the spec says.
    """
    if spec.images:
        place = spec.source.place("images", 0, "at")
        raise SpecError(
            f"{place}: times are those of the whole film, and these segments are only its end; name the image in its "
            "segment, or edit the job with a spec of the whole film"
        )
    in_job = spec.model_copy(update={**dict(head), "image": None, "images": (), "segments": spec.segments})
    images, pending = read_images(in_job), InMemoryBlobStore()
    for png in images.values():
        pending.put(png, mime=IMAGE_MIME)
    return list(with_image_ids(in_job, images, continues=continues).segments), pending


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
