"""Encoding and decoding of RGB frames (PNG) and tensors (safetensors).

Every function raises ContinuationError, naming `field`, for values it cannot encode or bytes it cannot decode. Input is
not trusted: sizes are checked before anything is allocated.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ltx2.errors import ContinuationError
from ltx2.state.png import Frame, check_size, decode_png, deflate_strip, join_strips, png_size, strip_tops

if TYPE_CHECKING:
    from torch import Tensor

FRAMES_MIME = "application/x-fastvideo-frames+png"
TENSOR_MIME = "application/x-fastvideo-tensor+safetensors"
LATENTS_MIME = "application/x-longtake-latents+safetensors"

MOST_FRAMES = 1024  # more than any segment has
MOST_PIXEL_BYTES = 320 * 2**20  # all frames of a state, decoded; enough for 9 frames of 4096x2880
MOST_HEADER_BYTES = 64 * 1024  # of a tensor file with one or two tensors

FLOATS = (
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
)
"""The types of latents: those that safetensors both writes and reads."""

_U32 = struct.Struct(">I")

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class FrameFormat:
    """What the frames of a state must be: their size in pixels, and their number."""

    width: int
    height: int
    count: int


def encode_frames(frames: Sequence[Frame], *, field: str = "video_frames") -> list[bytes]:
    """Encode each frame as a PNG.

    Raises:
        TypeError: `frames` is not a list of arrays.
        ContinuationError: a frame is not uint8 `(H, W, 3)`, or its size is too large or differs from the first.
    """
    if not isinstance(frames, (list, tuple, np.ndarray)):
        raise TypeError(f"{field}: must be a list of uint8 (H, W, 3) arrays, not {type(frames).__name__}")
    for i, frame in enumerate(frames):
        if not isinstance(frame, np.ndarray):
            raise TypeError(f"{field}[{i}]: must be a uint8 (H, W, 3) array, not {type(frame).__name__}")
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ContinuationError(f"{field}[{i}]: must be uint8 (H, W, 3), not {frame.dtype} {frame.shape}")
        try:
            check_size(frame.shape[1], frame.shape[0])
        except ValueError as error:
            raise ContinuationError(f"{field}[{i}]: {error}") from None
    _check_sizes([(frame.shape[1], frame.shape[0]) for frame in frames], field)
    strips = iter(
        _in_threads(lambda strip: deflate_strip(*strip), [(one, top) for one in frames for top in strip_tops(one)])
    )
    return [join_strips(one, [next(strips) for _ in strip_tops(one)]) for one in frames]


def decode_frames(pngs: Sequence[bytes], *, field: str = "video", expected: FrameFormat | None = None) -> list[Frame]:
    """Decode 8-bit RGB PNGs of one size to uint8 `(H, W, 3)` frames.

    All headers are checked before the first PNG is decoded. expected: their format, if only one is of use.

    Raises:
        ContinuationError: too many frames, too many pixels, different sizes, another format, or an invalid PNG.
    """
    sizes = []
    for i, png in enumerate(pngs[: MOST_FRAMES + 1]):
        try:
            sizes.append(png_size(png))
        except ValueError as error:
            raise ContinuationError(f"{field}: frame {i}: {error}") from None
    if expected is not None and sizes:
        _check_format(sizes, expected, field)
    _check_sizes(sizes, field)

    def decode(numbered: tuple[int, bytes]) -> Frame:
        i, png = numbered
        try:
            return decode_png(png)
        except ValueError as error:
            raise ContinuationError(f"{field}: frame {i}: {error}") from None

    return _in_threads(decode, list(enumerate(pngs)))


def _in_threads(run: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Call `run` on each item in as many threads as cores; PNG work releases the GIL."""
    threads = len(os.sched_getaffinity(0))
    if min(len(items), threads) < 2:
        return [run(item) for item in items]
    return list(_kept_threads(os.getpid(), threads).map(run, items))


@lru_cache(maxsize=1)
def _kept_threads(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process, kept: where all cores are busy, new ones wait longer for one than those that wake up."""
    return ThreadPoolExecutor(threads, "png")


def _check_sizes(sizes: Sequence[tuple[int, int]], field: str) -> None:
    if len(sizes) > MOST_FRAMES:
        raise ContinuationError(f"{field}: more than {MOST_FRAMES} frames")
    for i, (width, height) in enumerate(sizes):
        if (width, height) != sizes[0]:
            first = f"{sizes[0][0]}x{sizes[0][1]}"
            raise ContinuationError(f"{field}: frame {i} is {width}x{height}, frame 0 is {first}: sizes must be equal")
    total = sum(width * height * 3 for width, height in sizes)
    if total > MOST_PIXEL_BYTES:
        raise ContinuationError(f"{field}: {total} bytes of pixels in all, the limit is {MOST_PIXEL_BYTES}")


def _check_format(sizes: Sequence[tuple[int, int]], expected: FrameFormat, field: str) -> None:
    for width, height in sizes:
        if (width, height) != (expected.width, expected.height):
            wanted = f"{expected.width}x{expected.height}"
            raise ContinuationError(f"{field}: its frames are {width}x{height}, the spec says {wanted}")
    if len(sizes) != expected.count:
        raise ContinuationError(f"{field}: it has {len(sizes)} frames, the spec's overlap is {expected.count}")


def pack_frames(pngs: Sequence[bytes]) -> bytes:
    """Build the frame container: u32 count, then for each PNG its u32 length and its bytes; big-endian."""
    parts = [_U32.pack(len(pngs))]
    for png in pngs:
        parts += (_U32.pack(len(png)), png)
    return b"".join(parts)


def unpack_frames(data: bytes, *, field: str = "video") -> list[bytes]:
    """Split a frame container into its PNGs.

    Raises:
        ContinuationError: the data is truncated, a count or length is too large, or bytes follow the last frame.
    """
    if len(data) < _U32.size:
        raise ContinuationError(f"{field}: the frame container is truncated: no frame count")
    (count,) = _U32.unpack_from(data)
    at = _U32.size
    if count * _U32.size > len(data) - at:
        raise ContinuationError(f"{field}: {count} frames cannot fit into a container of {len(data)} bytes")
    pngs = []
    for i in range(count):
        if len(data) - at < _U32.size:
            raise ContinuationError(f"{field}: frame {i}: the container is truncated before its length")
        (length,) = _U32.unpack_from(data, at)
        at += _U32.size
        if length > len(data) - at:
            raise ContinuationError(f"{field}: frame {i}: {length} bytes declared, {len(data) - at} are left")
        pngs.append(data[at : at + length])
        at += length
    if at != len(data):
        raise ContinuationError(f"{field}: {len(data) - at} bytes follow frame {count - 1}, the last one")
    return pngs


def encode_tensor(tensor: Tensor, *, field: str = "audio_latents") -> bytes:
    """Encode audio latents as a safetensors file with one tensor, `t`.

    Raises:
        TypeError: not a tensor.
        ContinuationError: not one of FLOATS, not 4-D, sparse, or without data.
    """
    _check_latents(tensor, field)
    return _save({"t": tensor}, field)


def decode_tensor(data: bytes, *, field: str = "audio") -> Tensor:
    """Read the only tensor, `t`, of a safetensors file; dtype and shape are exact.

    Raises:
        ContinuationError: an invalid file, other tensors, or a tensor that is not floating point or not 4-D.
    """
    tensor = _load(data, {"t"}, field)["t"]
    _check_latents(tensor, field)
    return tensor


def encode_latents(video: Tensor, audio: Tensor) -> bytes:
    """Encode a segment's latents as a safetensors file with the tensors `video` and `audio`."""
    return _save({"video": video, "audio": audio}, "latents")


def decode_latents(data: bytes) -> tuple[Tensor, Tensor]:
    """Decode what `encode_latents` wrote: video, audio; dtype and shape are exact.

    Raises:
        ContinuationError: an invalid file, or other tensors.
    """
    tensors = _load(data, {"video", "audio"}, "latents")
    return tensors["video"], tensors["audio"]


def _check_latents(tensor: Tensor, field: str) -> None:
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{field}: must be a tensor, not {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise ContinuationError(f"{field}: must be floating point, not {tensor.dtype}")
    if str(tensor.dtype).removeprefix("torch.") not in FLOATS:
        raise ContinuationError(f"{field}: must be one of {', '.join(FLOATS)}, not {tensor.dtype}")
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_nested:
        kind = "on the meta device" if tensor.is_meta else f"of the layout {tensor.layout}"
        kind = "of several tensors" if tensor.is_nested else kind
        raise ContinuationError(f"{field}: must be an ordinary tensor with data, not one {kind}")
    if tensor.ndim != 4:
        raise ContinuationError(f"{field}: must be [batch, channels, time, mel], not the shape {list(tensor.shape)}")


def _save(tensors: dict[str, Tensor], field: str) -> bytes:
    from safetensors import SafetensorError
    from safetensors.torch import save

    try:
        # clone: the format rejects tensors that share memory
        return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    except (SafetensorError, KeyError, MemoryError, RuntimeError, ValueError) as error:
        # a dtype that the format does not support, or an expanded tensor that no memory can hold
        raise ContinuationError(f"{field}: cannot be written as safetensors ({error})") from None


def _load(data: bytes, names: set[str], field: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError, deserialize
    from safetensors.torch import load

    length = int.from_bytes(data[:8], "little")
    if length > MOST_HEADER_BYTES:
        raise ContinuationError(
            f"{field}: not a safetensors file that can be read (its header has {length} bytes, more than "
            f"{MOST_HEADER_BYTES})"
        )
    try:
        found = {name for name, _ in deserialize(data)}  # type: ignore[no-untyped-call]
        if found == names:
            return load(data)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        # a wrong header, or a dtype or shape that torch does not support
        raise ContinuationError(f"{field}: not a safetensors file that can be read ({error})") from None
    some = [name[:40] for name in sorted(found)[:3]]
    raise ContinuationError(f"{field}: must hold {sorted(names)} and no other tensor, not {len(found)}: {some}")
