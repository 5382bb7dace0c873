"""How long the frames between two segments take as PNG: encode, decode, and there and back through a Redis.

    python benchmarks/codec.py [--rounds 7] [--frames 9] [--json out/codec.json]

The reference is Pillow with its default settings, encode + decode without a Redis; Pillow at its quickest stands beside
it. Everything runs in turn in each round, and medians are shown. The frames are made here, as natural as arithmetic
gets: brightness ramps, textures of every size (their amplitudes fall with frequency to the power 1.45), camera noise,
and a slow pan. Pillow's default makes 1.3 MB of each at 1280x704 and takes as long for a megabyte as it does for
photographs enlarged to that size.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, it finds the packages beside it

from benchmarks import report
from blobstore import BlobStore, open_blob_store
from ltx2.codec import FRAMES_MIME, decode_frames, encode_frames, pack_frames, unpack_frames
from ltx2.png import Frame
from tests.conftest import RedisProcess

SIZES = ("768x512", "1280x704", "1536x1024", "1920x1088")
Plane = npt.NDArray[np.float64]

OURS = "longtake"
FALL = 1.45  # of amplitude with frequency
CONTRAST, RAMP, NOISE = 40.0, 40.0, 0.8  # standard deviations and half a range, of 255


def main() -> None:
    """Print three lines per size."""
    parser = report.parser(__doc__, "codec")
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="WxH")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="longtake-") as folder:
        server = RedisProcess(Path(folder), "--appendonly", "yes")
        try:
            store = open_blob_store(server.url)
            sizes = [[int(side) for side in size.split("x")] for size in options.sizes]
            rows = [row for size in sizes for row in measure(*size, options.frames, options.rounds, store)]
        finally:
            server.stop()
    report.write("codec", rows, options.json, frames=options.frames, rounds=options.rounds)


def measure(width: int, height: int, count: int, rounds: int, store: BlobStore) -> list[dict[str, Any]]:
    """The rows of one size; ends the program when a frame does not come back exactly."""
    frames = natural_frames(width, height, count)
    steps: dict[str, Callable[[], object]] = {}
    megabytes = {}
    for name, (encode, decode) in CODECS.items():
        pngs = encode(frames)
        megabytes[name] = sum(map(len, pngs)) / 1e6
        steps[f"encode, {name}"] = partial(encode, frames)
        steps[f"decode, {name}"] = partial(decode, pngs)
        check(frames, decode(pngs), name)
    steps["put + get"] = partial(put_and_get, pack_frames(encode_frames(frames)), store)
    steps["round trip"] = partial(through_redis, frames, store)
    check(frames, through_redis(frames, store), "Redis")
    took = report.in_turn(steps, rounds)
    rows: list[dict[str, Any]] = []
    for name in CODECS:
        encoding, decoding = took[f"encode, {name}"], took[f"decode, {name}"]
        both = took["round trip"] if name == OURS else [sum(pair) for pair in zip(encoding, decoding, strict=True)]
        row: dict[str, Any] = {"size": f"{width}x{height}", "PNGs by": name, "MB": megabytes[name]}
        row |= {"encode ms": report.median_ms(encoding), "decode ms": report.median_ms(decoding)}
        row["put + get ms"] = report.median_ms(took["put + get"]) if name == OURS else None
        rows.append(row | {"there and back ms": report.median_ms(both)})
    for row in rows:
        for what in ("encode", "there and back"):
            row[f"{what}, times as fast"] = rows[0][f"{what} ms"] / row[f"{what} ms"]
    return rows


def pillow_encode(frames: list[Frame], **settings: int) -> list[bytes]:
    """One PNG per frame, as Pillow writes them."""
    pngs = []
    for frame in frames:
        out = io.BytesIO()
        Image.fromarray(frame).save(out, format="PNG", **settings)
        pngs.append(out.getvalue())
    return pngs


def pillow_decode(pngs: list[bytes]) -> list[Frame]:
    """The frames in PNGs, as Pillow reads them."""
    return [np.array(Image.open(io.BytesIO(png))) for png in pngs]


def through_redis(frames: list[Frame], store: BlobStore) -> list[Frame]:
    """What a segment and its successor on another machine do with the frames between them."""
    return decode_frames(unpack_frames(put_and_get(pack_frames(encode_frames(frames)), store)))


def put_and_get(data: bytes, store: BlobStore) -> bytes:
    """`data` from the store, which then forgets it, else the next put would find it there."""
    blob_id = store.put(data, mime=FRAMES_MIME)
    try:
        return store.get(blob_id)
    finally:
        store.drop(blob_id)


def check(frames: list[Frame], decoded: list[Frame], what: str) -> None:
    """End the program unless the frames are the same."""
    if not np.array_equal(frames, decoded):
        sys.exit(f"{what}: the frames do not come back as they were given")


def natural_frames(width: int, height: int, count: int) -> list[Frame]:
    """`count` frames `(height, width, 3)` of a slow pan; the same on every call."""
    random = np.random.default_rng(7)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf

    def texture() -> Plane:
        waves = random.standard_normal((2, *frequency.shape)) / frequency**FALL
        plane = np.fft.irfft2(waves[0] + 1j * waves[1], (height, width))
        return np.asarray(plane / plane.std())

    ramp = RAMP * np.linspace(-1, 1, height)[:, None] + RAMP / 2 * np.linspace(-1, 1, width)
    light = 128 + ramp + CONTRAST * texture()
    scene = np.stack([light + CONTRAST / 4 * texture() for _ in range(3)], axis=-1)
    frames = []
    for i in range(count):
        seen = np.roll(scene, (i, 2 * i), axis=(0, 1)) + NOISE * random.standard_normal(scene.shape)
        frames.append(np.clip(np.rint(seen), 0, 255).astype(np.uint8))
    return frames


CODECS: dict[str, tuple[Callable[[list[Frame]], list[bytes]], Callable[[list[bytes]], list[Frame]]]] = {
    "Pillow, default": (pillow_encode, pillow_decode),
    "Pillow, level 1": (partial(pillow_encode, compress_level=1), pillow_decode),
    OURS: (encode_frames, decode_frames),
}

if __name__ == "__main__":
    main()
