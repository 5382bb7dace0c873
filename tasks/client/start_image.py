"""The image that a job starts from: a file, then a PNG in the blob store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from blobstore import blob_id_of
from ltx2.media.images import LARGEST_FILE_BYTES, decode_still
from ltx2.state.png import encode_png
from tasks.errors import SpecError

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
    try:
        path = Path(spec.image)
        if path.exists() and not path.is_file():
            raise SpecError(f"image: {spec.image}: not a regular file")
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
        return encode_png(decode_still(data, spec.width, spec.height))
    except OSError as error:
        raise SpecError(f"image: {spec.image}: {error.strerror or error}") from None
    except ValueError as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"image: {spec.image!r:.500}: {error}") from None


def with_image_id(spec: JobSpec) -> JobSpec:
    """`spec` with the blob id of its image instead of its path.

    Raises:
        SpecError: see `read_image`.
    """
    png = read_image(spec)
    return spec if png is None else spec.model_copy(update={"image": blob_id_of(png)})
