"""Encoding frames and tensors to bytes, and decoding them."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ltx2.errors import ContinuationError
from ltx2.state.arrays import FLOATS as FLOAT_NAMES
from ltx2.state.arrays import (
    MOST_FRAMES,
    FrameFormat,
    decode_frames,
    decode_latents,
    decode_tensor,
    encode_frames,
    encode_latents,
    encode_tensor,
    pack_frames,
    unpack_frames,
)
from ltx2.state.png import encode_png

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def frames(count: int = 3, height: int = 8, width: int = 12) -> list[np.ndarray]:
    return [np.full((height, width, 3), 20 * i, np.uint8) for i in range(count)]


def latents(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.arange(2 * 8 * 5 * 16).reshape(2, 8, 5, 16).to(dtype) / 7


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


def safetensors(header: Any, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(dtype: str = "F32", shape: Any = (1, 1, 1, 1), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@given(st.integers(0, 5), st.integers(1, 20), st.integers(1, 20))
def test_frames_round_trip_exactly(count: int, height: int, width: int) -> None:
    given_frames = frames(count, height, width)
    decoded = decode_frames(unpack_frames(pack_frames(encode_frames(given_frames))))
    assert len(decoded) == count
    assert all(np.array_equal(one, other) for one, other in zip(decoded, given_frames, strict=True))


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_a_frame_container_round_trips(pngs: list[bytes]) -> None:
    assert unpack_frames(pack_frames(pngs)) == pngs


def test_a_frame_container_has_the_documented_bytes() -> None:
    assert pack_frames([b"ab", b"c"]) == b"\0\0\0\x02" + b"\0\0\0\x02ab" + b"\0\0\0\x01c"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no frame count"),
        (b"\0\0\0", "no frame count"),
        (b"\0\0\0\x01", "1 frames cannot fit"),
        (b"\xff\xff\xff\xff" + bytes(100), "4294967295 frames cannot fit"),
        (b"\0\0\0\x02" + b"\0\0\0\x04abcd", "frame 1: the container is truncated"),
        (b"\0\0\0\x02" + b"\0\0\0\x04abcd" + b"\0\0", "frame 1: the container is truncated"),
        (b"\0\0\0\x01" + b"\0\0\0\x05abcd", "frame 0: 5 bytes declared, 4 are left"),
        (b"\0\0\0\x01" + b"\xff\xff\xff\xffabcd", "frame 0: 4294967295 bytes declared"),
        (b"\0\0\0\x01" + b"\0\0\0\x02abcd", "2 bytes follow frame 0"),
        (b"\0\0\0\0more", "4 bytes follow"),
    ],
)
def test_a_malformed_frame_container_is_rejected(data: bytes, message: str) -> None:
    with pytest.raises(ContinuationError, match=f"^video: .*{message}"):
        unpack_frames(data)


@given(st.data())
def test_a_frame_container_truncated_anywhere_is_rejected(data: st.DataObject) -> None:
    whole = pack_frames(encode_frames(frames()))
    with pytest.raises(ContinuationError):
        unpack_frames(whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (np.zeros((8, 12, 3), np.float32), ContinuationError, "not float32"),
        (np.zeros((8, 12, 3), np.int8), ContinuationError, "not int8"),
        (np.zeros((8, 12, 4), np.uint8), ContinuationError, r"\(8, 12, 4\)"),
        (np.zeros((8, 12), np.uint8), ContinuationError, r"\(8, 12\)"),
        (np.zeros((1, 8, 12, 3), np.uint8), ContinuationError, r"\(1, 8, 12, 3\)"),
        (np.zeros((0, 12, 3), np.uint8), ContinuationError, "12x0 pixels"),
        (np.zeros((16_385, 1, 3), np.uint8), ContinuationError, "1x16385 pixels"),
        (np.zeros((8, 16, 3), np.uint8), ContinuationError, "sizes must be equal"),
        ([[[0, 0, 0]]], TypeError, "not list"),
        (b"bytes", TypeError, "not bytes"),
        (None, TypeError, "not NoneType"),
        (torch.zeros(8, 12, 3, dtype=torch.uint8), TypeError, "not Tensor"),
    ],
)
def test_an_invalid_frame_is_rejected_with_its_index(wrong: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"^video_frames.*1.*{message}"):
        encode_frames([frames()[0], wrong])


@pytest.mark.parametrize("wrong", ["frames", 3, {"a": 1}])
def test_frames_must_be_a_list(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^video_frames: must be a list"):
        encode_frames(wrong)


def test_frames_of_two_sizes_are_rejected_before_decoding() -> None:
    # Given a damaged frame with a whole header, then a whole frame of another size
    pngs = [encode_png(frames()[0])[:-20], encode_png(frames(1, 16, 16)[0])]
    # When / Then
    with pytest.raises(ContinuationError, match="frame 1 is 16x16, frame 0 is 12x8"):
        decode_frames(pngs)


def test_the_error_names_the_first_damaged_frame() -> None:
    # Given frames that are decoded in parallel
    good = encode_png(frames()[0])
    # When / Then
    with pytest.raises(ContinuationError, match=r"^video: frame 2: the PNG is truncated"):
        decode_frames([good, good, good[:-1], good, good[:-1]])


def test_the_number_of_frames_is_limited() -> None:
    tiny = np.zeros((1, 1, 3), np.uint8)
    assert len(encode_frames([tiny] * MOST_FRAMES)) == MOST_FRAMES
    with pytest.raises(ContinuationError, match="more than 1024 frames"):
        encode_frames([tiny] * (MOST_FRAMES + 1))
    with pytest.raises(ContinuationError, match="more than 1024 frames"):
        decode_frames([encode_png(tiny)] * 10**6)


def test_the_total_number_of_pixels_is_limited() -> None:
    # Given a few kilobytes that declare over a gigabyte of pixels, each frame within its own limit
    png = encode_png(np.zeros((4096, 4096, 3), np.uint8))
    # When / Then the headers are enough to reject them
    with pytest.raises(ContinuationError, match="bytes of pixels in all"):
        decode_frames([png] * 40)


FORKING = """
import os
import numpy as np
from ltx2.state.arrays import encode_frames
frames = [np.full((600, 8, 3), i, np.uint8) for i in range(4)]
encoded = encode_frames(frames)
child = os.fork()
if child == 0:
    os._exit(encode_frames(frames) != encoded)
print(os.waitpid(child, 0)[1])
"""


def test_a_forked_process_encodes_too_without_the_threads_of_its_parent() -> None:
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "0\n", done.stderr


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_tensor_round_trips_exactly(dtype: torch.dtype) -> None:
    tensor = latents(dtype)
    assert same(decode_tensor(encode_tensor(tensor)), tensor)


def test_infinities_nan_and_subnormals_round_trip() -> None:
    # Given the bit patterns of two infinities, a NaN with a payload and a subnormal
    bits = torch.tensor([0x7F80, -0x80, 0x7FC1, 0x0001], dtype=torch.int16)
    tensor = bits.view(torch.bfloat16).reshape(1, 1, 4, 1)
    # When
    decoded = decode_tensor(encode_tensor(tensor))
    # Then
    assert torch.equal(decoded.view(torch.int16), tensor.view(torch.int16))


@pytest.mark.parametrize(
    "tensor",
    [
        latents()[:, :, 1:4],
        latents().transpose(1, 3),
        latents()[:1].expand(3, -1, -1, -1),
        latents().requires_grad_(),
        latents()[:, :, :0],
    ],
)
def test_views_gradients_and_empty_tensors_round_trip(tensor: Tensor) -> None:
    assert same(decode_tensor(encode_tensor(tensor)), tensor.detach())


@pytest.mark.parametrize(
    ("tensor", "error", "message"),
    [
        (torch.zeros(1, 8, 5, 16, dtype=torch.int32), ContinuationError, "not torch.int32"),
        (torch.zeros(1, 8, 5, 16, dtype=torch.bool), ContinuationError, "not torch.bool"),
        (torch.zeros(1, 8, 5, 16, dtype=torch.complex64), ContinuationError, "not torch.complex64"),
        (torch.zeros(8, 5, 16), ContinuationError, r"\[8, 5, 16\]"),
        (torch.zeros(()), ContinuationError, r"shape \[\]"),
        (np.zeros((1, 8, 5, 16), np.float32), TypeError, "not ndarray"),
        ([[1.0]], TypeError, "not list"),
    ],
)
def test_a_tensor_that_is_not_latents_is_rejected(tensor: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^audio_latents: .*{message}"):
        encode_tensor(tensor)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a safetensors file"),
        (b"\x80\x04pickle", "not a safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "not a safetensors file"),
        (struct.pack("<Q", 50_000_000) + b"{}", "not a safetensors file"),
        (safetensors(b"no json"), "not a safetensors file"),
        (safetensors([1, 2]), "not a safetensors file"),
        (safetensors(b'{"t":' * 100_000), "not a safetensors file"),
        (safetensors({"t": 5}), "not a safetensors file"),
        (safetensors({"t": entry(dtype="F99")}, bytes(4)), "not a safetensors file"),
        (safetensors({"t": entry(shape=[1, 1, 1, 2])}, bytes(4)), "not a safetensors file"),
        (safetensors({"t": entry(shape=[2**62, 2**62, 1, 1])}, bytes(4)), "not a safetensors file"),
        (safetensors({"t": entry(shape=[-1, 1, 1, 1])}, bytes(4)), "not a safetensors file"),
        (safetensors({"t": entry(shape=[1, 1, 1, 10**9], offsets=[0, 4 * 10**9])}, bytes(4)), "not a safetensors"),
        (safetensors({"t": entry(offsets=[4, 0])}, bytes(4)), "not a safetensors file"),
        (safetensors({"t": entry(offsets=[4, 8])}, bytes(8)), "not a safetensors file"),
        (safetensors({"t": entry()}, bytes(3)), "not a safetensors file"),
        (safetensors({"t": entry()}, bytes(5)), "not a safetensors file"),
        (safetensors({"t": entry(), "u": entry()}, bytes(4)), "not a safetensors file"),
        (safetensors({"t": entry(shape=[0, 2**63, 1, 1], offsets=[0, 0])}), "not a safetensors file"),
        (safetensors({"t": entry(shape=[0, 2**62, 2**62, 1], offsets=[0, 0])}), "not a safetensors file"),
        (safetensors({}), r"must hold \['t'\]"),
        (safetensors({"u": entry()}, bytes(4)), r"must hold \['t'\]"),
        (safetensors({"t": entry(), "u": entry(offsets=[4, 8])}, bytes(8)), r"must hold \['t'\]"),
        (safetensors({"t": entry(shape=[1])}, bytes(4)), "not the shape"),
        (safetensors({"t": entry(shape=[1, 1, 1, 1, 1])}, bytes(4)), "not the shape"),
        (safetensors({"t": entry("I32")}, bytes(4)), "must be floating point"),
        (safetensors({"t": entry("BOOL", offsets=[0, 1])}, bytes(1)), "must be floating point"),
        (safetensors({"t": entry("U16", offsets=[0, 2])}, bytes(2)), "must be floating point"),
        (
            safetensors({"t": entry("F4", shape=[1, 1, 1, 2], offsets=[0, 1])}, bytes(1)),
            "not a safetensors file",
        ),
    ],
)
def test_a_malformed_safetensors_file_is_rejected(data: bytes, message: str) -> None:
    with pytest.raises(ContinuationError, match=f"^audio: .*{message}"):
        decode_tensor(data)


@given(st.data())
def test_a_damaged_file_is_rejected_or_holds_valid_latents(data: st.DataObject) -> None:
    # Given
    damaged = bytearray(encode_tensor(torch.ones(1, 2, 3, 4)))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))] if data.draw(st.booleans()) else damaged
    # When
    try:
        tensor = decode_tensor(bytes(damaged))
    except ContinuationError:
        return
    # Then
    assert tensor.is_floating_point()
    assert tensor.ndim == 4
    assert tensor.numel() * tensor.element_size() <= len(damaged)


def test_the_latents_of_a_segment_round_trip_exactly() -> None:
    video, audio = torch.randn(1, 4, 2, 3, 5).bfloat16(), torch.randn(1, 8, 26, 16)
    decoded_video, decoded_audio = decode_latents(encode_latents(video, audio))
    assert same(decoded_video, video)
    assert same(decoded_audio, audio)


def test_latents_that_share_memory_round_trip() -> None:
    whole = torch.randn(2, 8, 5, 16)
    video, audio = decode_latents(encode_latents(whole[:1], whole))
    assert same(video, whole[:1])
    assert same(audio, whole)


def test_a_file_without_segment_latents_is_rejected() -> None:
    with pytest.raises(ContinuationError, match=r"^latents: .*not 1: \['t'\]"):
        decode_latents(encode_tensor(latents()))


def test_frames_of_another_format_are_refused_by_their_headers() -> None:
    # Given frames that take a hundred megabytes each when they are decoded, and are damaged after their headers
    png = encode_png(np.zeros((64, 64, 3), np.uint8))
    header = b"IHDR" + struct.pack(">IIBBBBB", 8192, 4096, 8, 2, 0, 0, 0)
    large = png[:12] + header + struct.pack(">I", zlib.crc32(header)) + bytes(200_000)
    # When / Then
    with pytest.raises(ContinuationError, match=r"^video: its frames are 8192x4096, the spec says 32x32"):
        decode_frames([large] * 6, expected=FrameFormat(32, 32, 9))
    with pytest.raises(ContinuationError, match=r"^video: it has 6 frames, the spec's overlap is 9"):
        decode_frames([png] * 6, expected=FrameFormat(64, 64, 9))
    assert len(decode_frames([png] * 9, expected=FrameFormat(64, 64, 9))) == 9


def test_a_tensor_file_that_names_many_tensors_is_refused_by_the_length_of_its_header() -> None:
    many = {f"t{i}": entry(shape=[0], offsets=[0, 0]) for i in range(30_000)}
    with pytest.raises(ContinuationError, match=r"its header has \d+ bytes, more than 65536"):
        decode_tensor(safetensors(many))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(1, 8, 2, 16, device="meta"), "an ordinary tensor with data, not one on the meta device"),
        (torch.zeros(1, 8, 2, 16).to_sparse(), "an ordinary tensor with data, not one of the layout torch.sparse_coo"),
        (torch.zeros(1, 8, 2, 16, dtype=torch.uint8).view(torch.float8_e8m0fnu), "one of float64, .*float8_e8m0fnu"),
        (
            torch.zeros(1, 8, 2, 16, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
            "one of float64, .*float4_e2m1fn_x2",
        ),
        (torch.zeros(1, 8, 2, 16, dtype=torch.complex64), "must be floating point"),
    ],
)
def test_latents_that_could_not_be_read_again_are_refused(tensor: Tensor, message: str) -> None:
    with pytest.raises(ContinuationError, match=f"^audio_latents: must be {message.removeprefix('must be ')}"):
        encode_tensor(tensor)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_latents_and_those_that_no_memory_holds_are_refused() -> None:
    nested = torch.nested.nested_tensor([torch.zeros(8, 2)])
    with pytest.raises(ContinuationError, match="must be an ordinary tensor with data, not one of several tensors"):
        encode_tensor(nested)
    with pytest.raises(ContinuationError, match="cannot be written as safetensors"):
        encode_tensor(torch.zeros(1).expand(1, 8, 2**50, 16))


@pytest.mark.parametrize("name", FLOAT_NAMES)
def test_every_type_of_latents_round_trips(name: str) -> None:
    tensor = torch.ones(1, 8, 2, 16).to(getattr(torch, name))
    decoded = decode_tensor(encode_tensor(tensor))
    assert decoded.dtype == tensor.dtype
    assert torch.equal(decoded.float(), tensor.float())
