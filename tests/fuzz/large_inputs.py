"""What large and hostile inputs cost.

Every input has at most about 1 MB and asks a parser for as much time or memory as it can. Each is read in a child
process, which tells the processor time and the memory that it took, in addition to what its parent had.

    python -m tests.fuzz.large_inputs [TEXT]

prints a line for each input whose name has TEXT.
"""

from __future__ import annotations

import gc
import io
import json
import os
import resource
import struct
import sys
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import msgpack
import numpy as np
import safetensors.torch  # noqa: F401 - or each child would import torch
from PIL import Image

from ltx2.media.images import decode_still
from ltx2.state.arrays import pack_frames
from tasks.errors import JobNotFoundError, MessageError, VersionError
from tasks.jobs.queues import SEGMENTS
from tasks.messaging.schema import check_entry
from tests.fuzz.targets import TARGETS
from tests.tasks.messaging import wire

MB = 10**6
MOST_SECONDS, MOST_MB = 2.0, 500
PNG = b"\x89PNG\r\n\x1a\n"
WEBP_OF_33_MILLION_PIXELS = bytes.fromhex("524946461a000000574542505650384c0d0000002ffeffff11071011118888fe0700")


@dataclass(frozen=True)
class Cost:
    """What an input cost. outcome: what the parser said, "read" if it took the input. megabytes: of memory."""

    name: str
    bytes: int
    seconds: float
    megabytes: float
    outcome: str

    @property
    def is_within_limits(self) -> bool:
        return self.outcome != "fault" and self.seconds <= MOST_SECONDS and self.megabytes <= MOST_MB


def chunk(name: bytes, data: bytes = b"") -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *before: bytes, pixels: bytes = b"", interlaced: int = 0) -> bytes:
    """A PNG; `before` are chunks between its header and its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlaced)
    return PNG + chunk(b"IHDR", header) + b"".join(before) + chunk(b"IDAT", pixels) + chunk(b"IEND")


def black(width: int, height: int) -> bytes:
    """The compressed pixels of a black PNG."""
    packer = zlib.compressobj(9)
    line = bytes(1 + 3 * width)
    return b"".join(packer.compress(line) for _ in range(height)) + packer.flush()


def bomb(megabytes: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(MB)) for _ in range(megabytes)) + packer.flush()


def jpeg(width: int, height: int, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "JPEG", **options)
    return file.getvalue()


def scans(width: int, height: int) -> bytes:
    """A progressive JPEG whose last scan is repeated until it has 1 MB."""
    whole = jpeg(width, height, progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + scan * (MB // len(scan)) + b"\xff\xd9"


def frames_of(kind: str, count: int) -> bytes:
    file = io.BytesIO()
    pictures = [Image.fromarray(np.full((64, 64, 3), number % 255, np.uint8)) for number in range(count)]
    pictures[0].save(file, kind, save_all=True, append_images=pictures[1:])
    return file.getvalue()


def resized_jpeg(width: int, height: int) -> bytes:
    """A small JPEG whose header says another size."""
    whole = jpeg(16, 16)
    place = whole.index(b"\xff\xc0") + 5
    return whole[:place] + struct.pack(">HH", height, width) + whole[place + 4 :]


def state(**payload: Any) -> bytes:
    whole = {
        "schema_version": 1,
        "segment_index": 0,
        "video_conditioning_frame_idx": 0,
        "video_conditioning_strength": 1.0,
        "audio_conditioning_num_frames": 0,
        "audio_conditioning_strength": 1.0,
        "video_position_offset_sec": 0.0,
        "metadata": {},
        "video": {"frames_b64": [b64encode(png(64, 64, pixels=black(64, 64))).decode()]},
        **payload,
    }
    return json.dumps({"kind": "ltx2.v1", "payload": whole}).encode()


def tensors(header: str) -> bytes:
    """A safetensors file without data."""
    return struct.pack("<Q", len(header)) + header.encode()


def many_tensors(count: int) -> bytes:
    return tensors(json.dumps({f"{n:x}": {"dtype": "F32", "shape": [], "data_offsets": [0, 0]} for n in range(count)}))


def gguf(counts: tuple[int, int], rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, *counts) + rest


def gguf_text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def sentencepiece(pieces: bytes) -> bytes:
    """A model of Gemma's kind with these `pieces`, of at most 127 bytes each."""
    special = b"".join(b"\x0a\x07\x0a\x05" + piece for piece in (b"<pad>", b"<eos>", b"<bos>", b"<unk>"))
    return special + pieces + b"\x12\x02\x18\x02" + b"\x1a\x02\x18\x00"


def gguf_list(name: str, kind: int, count: int, values: bytes) -> bytes:
    return gguf_text(name.encode()) + struct.pack("<IIQ", 9, kind, count) + values


Maker = Callable[[], bytes]
INPUTS: dict[str, dict[str, Maker]] = {
    "picture": {
        "34 bytes of WebP": lambda: WEBP_OF_33_MILLION_PIXELS,
        "PNG header of 60,000 x 60,000": lambda: png(60_000, 60_000),
        "PNG of 8K UHD": lambda: png(7680, 4320, pixels=black(7680, 4320)),
        "PNG of 8K UHD, interlaced": lambda: png(7680, 4320, pixels=black(7680, 4320), interlaced=1),
        "PNG with more pixels than its header says": lambda: png(64, 64, pixels=bomb(900)),
        "zTXt of 900 MB": lambda: png(64, 64, chunk(b"zTXt", b"a\0\0" + bomb(900)), pixels=black(64, 64)),
        "iTXt of 900 MB": lambda: png(64, 64, chunk(b"iTXt", b"a\0\1\0\0\0" + bomb(900)), pixels=black(64, 64)),
        "iCCP of 900 MB": lambda: png(64, 64, chunk(b"iCCP", b"a\0\0" + bomb(900)), pixels=black(64, 64)),
        "80,000 empty IDAT": lambda: png(64, 64, *[chunk(b"IDAT")] * 80_000, pixels=black(64, 64)),
        "80,000 tEXt": lambda: png(64, 64, *[chunk(b"tEXt", b"a\0b")] * 70_000, pixels=black(64, 64)),
        "APNG of 5,000 frames": lambda: png(
            64,
            64,
            chunk(b"acTL", struct.pack(">II", 5000, 0)),
            *[chunk(b"fcTL", struct.pack(">IIIIIHHBB", n, 64, 64, 0, 0, 1, 1, 0, 0)) for n in range(5000)],
            pixels=black(64, 64),
        ),
        "WebP of 300 frames": lambda: frames_of("WEBP", 300),
        "JPEG header of 65,500 x 65,500": lambda: resized_jpeg(65_500, 65_500),
        "JPEG header of 16,384 x 2048, no data": lambda: resized_jpeg(16_384, 2048),
        "JPEG of ever more scans": lambda: scans(4096, 2048),
        "JPEG of ever more scans, 8K UHD": lambda: scans(7680, 4320),
        "JPEG with 200,000 markers": lambda: b"\xff\xd8" + b"\xff\xe5\0\2" * 200_000 + jpeg(16, 16)[2:],
        "TIFF header of 60,000 x 60,000": lambda: (
            b"II*\0\x08\0\0\0\3\0"
            + b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in ((256, 60_000), (257, 60_000), (273, 8)))
            + bytes(4)
        ),
        "GIF header of 65,535 x 65,535": lambda: b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + bytes(99),
        "ICO with a PNG of 60,000 x 60,000": lambda: (
            b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, 100, 22) + png(60_000, 60_000)
        ),
        "AVIF without pictures": lambda: b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(MB),
        "1 MB of zeros": lambda: bytes(MB),
    },
    "spec_yaml": {
        "aliases of aliases": lambda: (
            b"a: &a [x,x,x,x,x,x,x,x,x]\n"
            + b"".join(b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in range(98, 122))
            + b"segments: *y\n"
        ),
        "merge keys": lambda: b"a: &a {b: 1}\nsegments:\n" + b"- <<: *a\n" * (MB // 9),
        "a text of 1 MB": lambda: b"title: " + b"a" * MB + b"\nsegments: [{prompt: a}]\n",
        "folded lines": lambda: b"title: >\n" + b"  a\n" * (MB // 4) + b"segments: [{prompt: a}]\n",
        "tabs": lambda: b"title:" + b"\t" * MB,
        "comments": lambda: b"#\n" * (MB // 2),
        "documents": lambda: b"---\n" * (MB // 4),
        "flow keys": lambda: b"{" + b"a: 1, " * (MB // 6) + b"}",
    },
    "spec_json": {
        "100,000 segments": lambda: json.dumps({"segments": [{"prompt": "a"}] * 100_000}).encode(),
        "100,000 wrong segments": lambda: json.dumps({"segments": [{"promt": 1}] * 90_000}).encode(),
        "500,000 levels": lambda: b"[" * (MB // 2) + b"]" * (MB // 2),
        "an integer of 1 MB": lambda: b'{"seed": ' + b"9" * MB + b"}",
        "a float of 1 MB": lambda: b'{"fps": 1.' + b"9" * MB + b"}",
        "100,000 integers of 400 digits": lambda: b'{"sigmas": [' + b",".join([b"9" * 399] * 2500) + b"]}",
        "a title of escapes": lambda: b'{"title": "' + b"\\ud83d\\ude00" * (MB // 12) + b'"}',
        "a title of combining marks": lambda: json.dumps({"title": "\u0301" * (MB // 6)}).encode(),
        "blanks": lambda: b" " * MB + b"{}",
    },
    "state": {
        "metadata of 1 MB": lambda: state(metadata={"a": "b" * MB}),
        "metadata of 300,000 entries": lambda: state(metadata={"a": [0] * 300_000}),
        "metadata of 900 levels": lambda: state(metadata=json.loads('{"a":' * 900 + "0" + "}" * 900)),
        "metadata of many deep lists": lambda: state(metadata={"a": [json.loads("[" * 90 + "]" * 90)] * 5000}),
        "100,000 levels": lambda: b'{"kind": "ltx2.v1", "payload": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "an integer of 1 MB": lambda: b'{"kind": "ltx2.v1", "payload": {"segment_index": ' + b"9" * MB + b"}}",
        "200,000 frames": lambda: state(video={"frames_b64": [""] * 200_000}),
        "1000 frames of 8192 x 4096": lambda: state(
            video={"frames_b64": [b64encode(png(8192, 4096)).decode()] * 1000},
        ),
        "six black frames of 8192 x 4096": lambda: state(
            video={"frames_b64": [b64encode(png(8192, 4096, pixels=black(8192, 4096))).decode()] * 6}
        ),
        "frames of 64 x 64 that hold 900 MB": lambda: state(
            video={"frames_b64": [b64encode(png(64, 64, pixels=bomb(700))).decode()]}
        ),
        "no base64": lambda: state(video={"frames_b64": ["!" * MB]}),
        "10,000 audio tensors": lambda: state(audio={"safetensors_b64": b64encode(many_tensors(10_000)).decode()}),
    },
    "frames": {
        "1000 frames of 8192 x 4096": lambda: pack_frames([png(8192, 4096)] * 1000),
        "a header of zeros": lambda: bytes(MB),
    },
    "png": {"black, 8192 x 4096": lambda: png(8192, 4096, pixels=black(8192, 4096))},
    "tensor": {"10,000 tensors": lambda: many_tensors(10_000), "60 GB": lambda: b"\xff" * 8 + b"{" * 100},
    "safetensors": {
        "15,000 tensors": lambda: many_tensors(15_000),
        "a shape of 300,000 numbers": lambda: tensors(
            json.dumps({"a": {"dtype": "F32", "shape": [1] * 300_000, "data_offsets": [0, 4]}})
        ),
        "numbers of 300 digits": lambda: tensors(
            json.dumps({"a": {"dtype": "F32", "shape": [10**299] * 3000, "data_offsets": [0, 4]}})
        ),
        "80,000 entries of metadata": lambda: tensors(
            json.dumps({"__metadata__": {f"{n}": "" for n in range(80_000)}})
        ),
        "a config of 100,000 levels": lambda: tensors(json.dumps({"__metadata__": {"config": "[" * 100_000}})),
        "500,000 levels": lambda: tensors("[" * (MB // 2) + "]" * (MB // 2)),
        "blanks": lambda: tensors(" " * MB + "{}"),
    },
    "lora": {"15,000 tensors": lambda: many_tensors(15_000)},
    "gguf": {
        "counts of 2**63": lambda: gguf((2**63, 2**63)),
        "a list of 2**60 texts": lambda: gguf((0, 1), gguf_text(b"a") + struct.pack("<IIQ", 9, 8, 2**60)),
        "a list of 120,000 texts": lambda: gguf(
            (0, 1), gguf_text(b"a") + struct.pack("<IIQ", 9, 8, 120_000) + gguf_text(b"") * 120_000
        ),
        "lists in lists": lambda: gguf(
            (0, 1), gguf_text(b"a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 80_000
        ),
        "50,000 entries": lambda: gguf((0, 50_000), (gguf_text(b"abc") + struct.pack("<IB", 7, 1)) * 50_000),
        "a vocabulary with 700,000 merges": lambda: gguf(
            (0, 2),
            gguf_list(
                "tokenizer.ggml.tokens",
                8,
                5632,
                b"".join(gguf_text(b"%c" % (97 + n // 256) * (n % 256 + 1)) for n in range(5632)),
            )
            + gguf_list("tokenizer.ggml.token_type", 4, 5632, struct.pack("<I", 1) * 5632),
        ),
        "a text of 2**62": lambda: gguf((0, 1), struct.pack("<Q", 2**62) + bytes(100)),
    },
    "sentencepiece": {
        "500,000 empty pieces": lambda: sentencepiece(b"\x0a\x00" * (MB // 2)),
        "80,000 pieces of spaces": lambda: sentencepiece((b"\x0a\x0a\x0a\x08" + b" " * 8) * 80_000),
        "a piece of 2**60 bytes": lambda: sentencepiece(b"\x0a" + b"\x80" * 8 + b"\x10"),
        "8,000 pieces of 120 letters": lambda: sentencepiece((b"\x0a\x7a\x0a\x78" + b"a" * 120) * 8_000),
    },
    "message": {
        "500,000 levels": lambda: b"[" * (MB // 2) + b"]" * (MB // 2),
        "an integer of 1 MB": lambda: b"9" * MB,
        "300,000 numbers": lambda: json.dumps([0] * 300_000).encode(),
        "60,000 types of kombu": lambda: b"[" + b",".join([b'{"__type__": "x", "__value__": 1}'] * 25_000) + b"]",
    },
    "message_body": {
        "90 levels, many times": lambda: json.dumps([json.loads("[" * 90 + "]" * 90)] * 4000).encode(),
        "300,000 arguments": lambda: json.dumps([[0] * 300_000, {}, {}]).encode(),
    },
    "manifest": {
        "1,000,000 levels": lambda: b"\x91" * MB,
        "2**32 entries": lambda: b"\xdf\xff\xff\xff\xff" + b"\xa1a\xc0" * 300_000,
        "a list of 2**32": lambda: b"\xdd\xff\xff\xff\xff" + b"\xc0" * MB,
        "bytes of 2**32": lambda: b"\xc6\xff\xff\xff\xff",
        "300,000 chunks": lambda: bytes(msgpack.packb({"size": 1, "chunks": [0] * 900_000})),
    },
    "record": {
        "1,000,000 levels": lambda: b"\x91" * MB,
        "warnings of 900,000 entries": lambda: bytes(
            msgpack.packb({"index": 0, "state": {}, "warnings": [""] * 900_000})
        ),
        "a list of 2**32": lambda: b"\xdd\xff\xff\xff\xff" + b"\xc0" * MB,
    },
    "redis_url": {
        "a password of 1 MB": lambda: b"redis://:" + b"a" * MB + b"@h:1/0",
        "1 MB of @": lambda: b"redis://" + b"@" * MB,
        "1 MB of colons": lambda: b"redis://" + b":" * MB,
        "100,000 sentinels": lambda: b"sentinel://" + b"h:1," * (MB // 4) + b"h:1/m/0",
        "URLs in a text": lambda: b"redis://:a@h " * (MB // 13),
    },
    "hub_name": {
        "1 MB of slashes": lambda: b"/" * MB,
        "1 MB of @": lambda: b"a/b" + b"@" * MB,
        "1 MB of dots": lambda: b"a/" + b"." * MB,
    },
}


def _message(data: bytes) -> None:
    with suppress(MessageError, JobNotFoundError, VersionError):
        check_entry(data, SEGMENTS)


def _message_body(data: bytes) -> None:
    _message(json.dumps(wire.changed(wire.message(), ("body",), b64encode(data).decode())).encode())


def _picture(data: bytes) -> None:
    """As submit and workers read it: in a child with limits."""
    with suppress(ValueError):
        decode_still(data, 64, 64)


ONE_CALL = {"picture": _picture, "message": _message, "message_body": _message_body}
"""Instead of targets that read an input several times, or without the limits of a child."""


def measure(name: str, make: Maker) -> Cost:
    """Read an input in a child process."""
    target = name.partition(": ")[0]
    data = make()
    gc.freeze()  # the objects of this process and its libraries cost the child nothing
    parse = {**TARGETS, **ONE_CALL}[target]
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        os.write(write, json.dumps(_in_child(parse, data)).encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        reply = pipe.read()
    os.waitpid(child, 0)
    seconds, megabytes, outcome = json.loads(reply) if reply else (0.0, 0.0, "fault")
    return Cost(name, len(data), round(seconds, 2), round(megabytes), outcome)


def _in_child(parse: Callable[[bytes], None], data: bytes) -> tuple[float, float, str]:
    before, outcome = _peak_kib(), "read or refused"
    start = time.process_time()
    try:
        parse(data)
    except BaseException as error:
        outcome = "fault"
        print(f"{type(error).__name__}: {error}"[:500], file=sys.stderr)
    inner = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.process_time() - start + inner.ru_utime + inner.ru_stime
    # Linux counts what a process had before it became another program: only more than that is the other program's
    inner_kib = inner.ru_maxrss if inner.ru_maxrss > before * 1.05 else 0
    return seconds, max(_peak_kib() - before, inner_kib) / 1024, outcome


def _peak_kib() -> int:
    """The most memory that this process has had; unlike ru_maxrss, without that of its parent before a fork."""
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1])


def costs(text: str = "") -> Iterator[Cost]:
    """What each input costs whose name has `text`."""
    for target, makers in INPUTS.items():
        for name, make in makers.items():
            if text in f"{target}: {name}":
                yield measure(f"{target}: {name}", make)


if __name__ == "__main__":
    for cost in costs(*sys.argv[1:2]):
        mark = "" if cost.is_within_limits else "  <- beyond the limits"
        print(json.dumps(asdict(cost)) + mark, flush=True)
