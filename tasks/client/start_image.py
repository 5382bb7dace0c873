"""The image a job begins with: a file where it is submitted, a PNG in the blob store from then on."""

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
    """The image file that `spec` names, as a PNG of the job's size; None where it names none.

    Raises:
        SpecError: no such file, or no picture in it; names the file.
    """
    if spec.image is None:
        return None
    try:
        path = Path(spec.image)
        if path.exists() and not path.is_file():
            raise SpecError(f"image: {spec.image}: is no regular file")
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
    """`spec` with its image by content instead of by path.

    Raises:
        SpecError: as `read_image` does.
    """
    png = read_image(spec)
    return spec if png is None else spec.model_copy(update={"image": blob_id_of(png)})
