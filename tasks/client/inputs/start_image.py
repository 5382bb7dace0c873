"""The images of a job: files, then PNGs in the blob store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from blobstore import blob_id_of
from ltx2.media.images import LARGEST_FILE_BYTES, decode_still
from ltx2.media.sources.opening import is_video
from ltx2.media.sources.reader import read_first_frame
from ltx2.state.png import encode_png
from tasks.errors import SpecError
from tasks.field_errors import FieldError, shown_path
from tasks.spec.images import image_paths, placed, with_paths
from tasks.spec.input_files import open_input, read_input

if TYPE_CHECKING:
    from tasks.spec.schema import JobSpec

IMAGE_MIME = "image/png"


def read_images(spec: JobSpec, *, kept: int = 0) -> dict[str, bytes]:
    """Read every image file of `spec`, once each, as a PNG of the job's size; of a video the first frame. By path.

    kept: those of so many leading segments are not read.

    Raises:
        SpecError: one is missing or not an image; names it.
    """
    images: dict[str, bytes] = {}
    for location, path in image_paths(spec).items():
        is_kept = location[0] == "segments" and int(location[1]) < kept
        if path not in images and not is_kept:
            images[path] = _read_image(spec, path, spec.source.place(*location))
    return images


def _read_image(spec: JobSpec, path: str, place: str) -> bytes:
    try:
        with open_input(path, field=place) as file:
            if is_video(file):
                return encode_png(read_first_frame(file, spec.width, spec.height))
        return encode_png(
            decode_still(read_input(path, LARGEST_FILE_BYTES, "an image", field=place), spec.width, spec.height)
        )
    except SpecError:
        raise
    except ValueError as error:
        raise SpecError(f"{place}: {shown_path(path)}: {error}") from None


def with_image_ids(
    spec: JobSpec, images: Mapping[str, bytes], *, continues: bool, video_frames: int = 0, kept: int = 0
) -> JobSpec:
    """`spec` with the blob ids of its images instead of their paths, each at its frame. images: from `read_images`.

    continues, video_frames, kept: see `placed`. Segments that are kept have blob ids already.

    Raises:
        SpecError: an image cannot be where the spec says.
    """
    if not images:
        return spec
    ids = {image.path: image.path for segment in spec.segments[:kept] for image in segment.images or ()}
    ids |= {path: blob_id_of(png) for path, png in images.items()}
    try:
        return placed(with_paths(spec, ids), continues=continues, video_frames=video_frames, kept=kept)
    except FieldError as error:
        raise SpecError(f"{spec.source.place(*error.location)}: {error}") from None
