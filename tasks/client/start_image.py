"""The image that a job starts from: a file, then a PNG in the blob store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blobstore import blob_id_of
from ltx2.media.images import LARGEST_FILE_BYTES, decode_still
from ltx2.state.png import encode_png
from tasks.errors import SpecError
from tasks.field_errors import shown_path
from tasks.spec.input_files import read_input

if TYPE_CHECKING:
    from tasks.spec.schema import JobSpec

IMAGE_MIME = "image/png"


def read_image(spec: JobSpec) -> bytes | None:
    """Read the image file of `spec` as a PNG of the job's size; None if it has none.

    Raises:
        SpecError: the file is missing or not an image; names it.
    """
    if spec.image is None:
        return None
    place = spec.source.place("image")
    data = read_input(spec.image, LARGEST_FILE_BYTES, "an image", field=place)
    try:
        return encode_png(decode_still(data, spec.width, spec.height))
    except ValueError as error:
        raise SpecError(f"{place}: {shown_path(spec.image)}: {error}") from None


def with_image_id(spec: JobSpec) -> JobSpec:
    """`spec` with the blob id of its image instead of its path.

    Raises:
        SpecError: see `read_image`.
    """
    png = read_image(spec)
    return spec if png is None else spec.model_copy(update={"image": blob_id_of(png)})
