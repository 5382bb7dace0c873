"""Time of the frames between two segments as PNG: encode, decode, and the round trip through Redis.

    python benchmarks/codec.py [--rounds 7] [--frames 9] [--json out/codec.json]

The reference is Pillow with its default settings, encode + decode without Redis. Pillow at its fastest setting is
measured too. All variants run in turn in each round, and medians are printed. Frames are from benchmarks/natural.py.
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
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it also runs as a file

from benchmarks import report
from benchmarks.natural import natural_frames
from blobstore import BlobStore, open_blob_store
from ltx2.state.arrays import FRAMES_MIME, decode_frames, encode_frames, pack_frames, unpack_frames
from ltx2.state.png import Frame
from tests.conftest import RedisProcess

SIZES = ("768x512", "1280x704", "1536x1024", "1920x1088")
OURS = "longtake"


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
    """The rows of one size. Exits if a frame is not decoded exactly."""
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
    """Encode, put, get and decode frames, as a segment and the next one on another machine do."""
    return decode_frames(unpack_frames(put_and_get(pack_frames(encode_frames(frames)), store)))


def put_and_get(data: bytes, store: BlobStore) -> bytes:
    """Put `data`, get it and drop it, so that the next put stores it again."""
    blob_id = store.put(data, mime=FRAMES_MIME)
    try:
        return store.get(blob_id)
    finally:
        store.drop(blob_id)


def check(frames: list[Frame], decoded: list[Frame], what: str) -> None:
    """Exit unless the frames are equal."""
    if not np.array_equal(frames, decoded):
        sys.exit(f"{what}: the decoded frames differ from the originals")


CODECS: dict[str, tuple[Callable[[list[Frame]], list[bytes]], Callable[[list[bytes]], list[Frame]]]] = {
    "Pillow, default": (pillow_encode, pillow_decode),
    "Pillow, level 1": (partial(pillow_encode, compress_level=1), pillow_decode),
    OURS: (encode_frames, decode_frames),
}

if __name__ == "__main__":
    main()
