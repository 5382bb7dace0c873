"""Arrays to bytes and back: lists of RGB frames (PNG, and the container that holds them), tensors (safetensors).

Every function raises ContinuationError, naming `field`, for values that it cannot encode or bytes that it cannot
decode. Bytes that come in are not trusted: sizes are bounded before anything is allocated.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ltx2.errors import ContinuationError
from ltx2.state.png import Frame, check_size, decode_png, deflated, png_of, png_size, strip_tops

if TYPE_CHECKING:
    from torch import Tensor

FRAMES_MIME = "application/x-fastvideo-frames+png"
TENSOR_MIME = "application/x-fastvideo-tensor+safetensors"
LATENTS_MIME = "application/x-longtake-latents+safetensors"

MOST_FRAMES = 1024  # more than any segment has
MOST_PIXEL_BYTES = 640 * 2**20  # of all frames of a state, decoded; 25 frames of 3840x2176 fit

_U32 = struct.Struct(">I")

Item = TypeVar("Item")
Result = TypeVar("Result")


def encode_frames(frames: Sequence[Frame], *, field: str = "video_frames") -> list[bytes]:
    """One PNG per frame. TypeError: not a list of arrays. ContinuationError: not uint8 `(H, W, 3)` of one size."""
    if not isinstance(frames, (list, tuple, np.ndarray)):
        raise TypeError(f"{field}: a list of uint8 (H, W, 3) arrays is needed, not {type(frames).__name__}")
    for i, frame in enumerate(frames):
        if not isinstance(frame, np.ndarray):
            raise TypeError(f"{field}[{i}]: a uint8 (H, W, 3) array is needed, not {type(frame).__name__}")
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ContinuationError(f"{field}[{i}]: uint8 (H, W, 3) is needed, not {frame.dtype} {frame.shape}")
        try:
            check_size(frame.shape[1], frame.shape[0])
        except ValueError as error:
            raise ContinuationError(f"{field}[{i}]: {error}") from None
    _check_together([(frame.shape[1], frame.shape[0]) for frame in frames], field)
    strips = iter(
        _in_threads(lambda strip: deflated(*strip), [(one, top) for one in frames for top in strip_tops(one)])
    )
    return [png_of(one, [next(strips) for _ in strip_tops(one)]) for one in frames]


def decode_frames(pngs: Sequence[bytes], *, field: str = "video") -> list[Frame]:
    """The uint8 `(H, W, 3)` frames in 8-bit RGB PNGs of one size; every header is checked before any is decoded."""
    sizes = []
    for i, png in enumerate(pngs[: MOST_FRAMES + 1]):
        try:
            sizes.append(png_size(png))
        except ValueError as error:
            raise ContinuationError(f"{field}: frame {i}: {error}") from None
    _check_together(sizes, field)

    def decode(numbered: tuple[int, bytes]) -> Frame:
        i, png = numbered
        try:
            return decode_png(png)
        except ValueError as error:
            raise ContinuationError(f"{field}: frame {i}: {error}") from None

    return _in_threads(decode, list(enumerate(pngs)))


def _in_threads(run: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`run` of each item, one thread per core: PNG work lets go of the GIL. The threads end with the call."""
    threads = min(len(items), len(os.sched_getaffinity(0)))
    if threads < 2:
        return [run(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, items))


def _check_together(sizes: Sequence[tuple[int, int]], field: str) -> None:
    if len(sizes) > MOST_FRAMES:
        raise ContinuationError(f"{field}: more than {MOST_FRAMES} frames")
    for i, (width, height) in enumerate(sizes):
        if (width, height) != sizes[0]:
            first = f"{sizes[0][0]}x{sizes[0][1]}"
            raise ContinuationError(f"{field}: frame {i} is {width}x{height}, frame 0 is {first}: one size is needed")
    total = sum(width * height * 3 for width, height in sizes)
    if total > MOST_PIXEL_BYTES:
        raise ContinuationError(f"{field}: {total} bytes of pixels in all; at most {MOST_PIXEL_BYTES} are allowed")


def pack_frames(pngs: Sequence[bytes]) -> bytes:
    """The frame container: u32 count, then each PNG after its u32 length; big-endian."""
    parts = [_U32.pack(len(pngs))]
    for png in pngs:
        parts += (_U32.pack(len(png)), png)
    return b"".join(parts)


def unpack_frames(data: bytes, *, field: str = "video") -> list[bytes]:
    """The PNGs in a frame container. ContinuationError: cut short, a count or length that cannot fit, more."""
    if len(data) < _U32.size:
        raise ContinuationError(f"{field}: the frame container is cut short: no frame count")
    (count,) = _U32.unpack_from(data)
    at = _U32.size
    if count * _U32.size > len(data) - at:
        raise ContinuationError(f"{field}: {count} frames cannot fit into a container of {len(data)} bytes")
    pngs = []
    for i in range(count):
        if len(data) - at < _U32.size:
            raise ContinuationError(f"{field}: frame {i}: the container is cut short before its length")
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
    """Audio latents as a safetensors file with the tensor `t`. ContinuationError: not floating point or not 4-D."""
    _check_latents(tensor, field)
    return _save({"t": tensor}, field)


def decode_tensor(data: bytes, *, field: str = "audio") -> Tensor:
    """The floating-point 4-D tensor `t` of a safetensors file that holds nothing else; dtype and shape exact."""
    tensor = _load(data, {"t"}, field)["t"]
    _check_latents(tensor, field)
    return tensor


def encode_latents(video: Tensor, audio: Tensor) -> bytes:
    """A segment's latents as one safetensors file with the tensors `video` and `audio`; dtype and shape exact."""
    return _save({"video": video, "audio": audio}, "latents")


def decode_latents(data: bytes) -> tuple[Tensor, Tensor]:
    """What `encode_latents` was given: video, audio."""
    tensors = _load(data, {"video", "audio"}, "latents")
    return tensors["video"], tensors["audio"]


def _check_latents(tensor: Tensor, field: str) -> None:
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{field}: a tensor is needed, not {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise ContinuationError(f"{field}: floating point is needed, not {tensor.dtype}")
    if tensor.ndim != 4:
        raise ContinuationError(f"{field}: [batch, channels, time, mel] is needed, not the shape {list(tensor.shape)}")


def _save(tensors: dict[str, Tensor], field: str) -> bytes:
    from safetensors import SafetensorError
    from safetensors.torch import save

    try:
        # clone: the format refuses tensors that share memory
        return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    except (SafetensorError, KeyError, ValueError) as error:  # a dtype that the format does not know
        raise ContinuationError(f"{field}: cannot be written as safetensors ({error})") from None


def _load(data: bytes, names: set[str], field: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError, deserialize
    from safetensors.torch import load

    try:
        # names first: making a tensor of each of a hundred thousand would take seconds
        found = {name for name, _ in deserialize(data)}  # type: ignore[no-untyped-call]
        if found == names:
            return load(data)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        # a header that lies, a dtype or a shape beyond torch's
        raise ContinuationError(f"{field}: not a safetensors file that can be read ({error})") from None
    some = [name[:40] for name in sorted(found)[:3]]
    raise ContinuationError(f"{field}: the file must hold {sorted(names)} and nothing else, not {len(found)}: {some}")
