"""The whole check of a model with its real weights: load, render two joined segments, continuity, peak memory.

    python benchmarks/real.py MODEL [--text-encoder WHAT] [--size 768x512] [--frames 121] [--fps 24] [--prompt TEXT]
                                    [--distilled true|false] [--decoder diffusion]

MODEL, WHAT and the values of --distilled and --decoder are all that a spec can name as `model`, `text_encoder`,
`distilled` and `decoder`. What is wrong with the arguments is said before the model is loaded. LONGTAKE_DEVICE,
LONGTAKE_PRECISION, LONGTAKE_OFFLOAD and LONGTAKE_TEXT_ENCODER apply. Writes the film and its continuity report into
the folder of --json, next to the figures, and exits with 1 if the segments do not join or the model cannot be loaded.
It needs no servers.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import report
from ltx2.engine import Engine
from ltx2.errors import LTX2Error
from ltx2.media.clip import encode_clip
from ltx2.media.film import join_film
from ltx2.request import SegmentOutput, SegmentRequest
from ltx2.sampling import Decoder, Sampling
from ltx2.timeline import SegmentShape, SegmentTiming, exact, first_timing, next_timing
from tasks.client.films.report import write_report
from tasks.errors import LongtakeError
from tasks.settings import Settings

PROMPT = "a fishing boat leaves the harbour at dawn, gulls cry, waves lap against the quay"
GIB = 2**30


def main() -> None:
    """Check one model."""
    parser = report.parser(__doc__ or "", "real")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--text-encoder", metavar="WHAT", help="of a model in files")
    parser.add_argument("--size", default="768x512", type=size, metavar="WxH")
    parser.add_argument("--frames", type=int, default=121)
    parser.add_argument("--fps", default="24")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--distilled", choices=("true", "false"), help="what the weights are, if their name is wrong")
    parser.add_argument("--decoder", type=Decoder, choices=list(Decoder), default=Decoder.CONVOLUTIONAL)
    options = parser.parse_args()
    timings = two_timings(SegmentShape(options.frames, exact(options.fps)))
    sampling = Sampling(
        distilled=None if options.distilled is None else options.distilled == "true", decoder=options.decoder
    )
    requests = [SegmentRequest(options.prompt, one.index, *options.size, one, sampling) for one in timings]
    settings, began = Settings.from_env(), time.perf_counter()
    engine = Engine.load(
        options.model,
        device=settings.device,
        precision=settings.precision,
        offload=settings.offload,
        text_encoder=settings.text_encoder,
        compiler=settings.compiler,
        attention=settings.attention,
        encoder=options.text_encoder,
    )
    rows = [row("load", time.perf_counter() - began)]
    clips, before = [], None
    for timing, request in zip(timings, requests, strict=True):
        began = time.perf_counter()
        output = engine.run(request, before and before.state)
        rows.append(row(f"segment {timing.index}", time.perf_counter() - began))
        clips.append(clip_of(output, timing))
        before = output
    folder = options.json.parent
    folder.mkdir(parents=True, exist_ok=True)
    film = folder / "real.mp4"
    join_film(clips, timings, film)
    wrong = write_report(film.read_bytes(), timings, folder / "joins")
    distilled = engine.variant.distilled if sampling.distilled is None else sampling.distilled
    variant = str(replace(engine.variant, distilled=distilled))
    more = {"model": options.model, "variant": variant, "made_with": engine.made_with, "broken": wrong}
    report.write("real", rows, options.json, **more)
    print(f"{options.model}: {variant}, {engine.made_with}")
    print(f"film: {film}, continuity report: {folder / 'joins'}")
    print("continuity: " + ("; ".join(wrong) or "the segments join"))
    sys.exit(1 if wrong else 0)


def size(text: str) -> tuple[int, int]:
    """The width and height in `text`."""
    width, height = (int(side) for side in text.split("x"))
    return width, height


def two_timings(shape: SegmentShape) -> list[SegmentTiming]:
    """A segment and its continuation."""
    first = first_timing(shape)
    return [first, next_timing(first)]


def clip_of(output: SegmentOutput, timing: SegmentTiming) -> bytes:
    """The clip of a segment, as a worker encodes it."""
    return encode_clip(
        output.frames[timing.skipped_frames :],
        output.sound,
        fps=timing.shape.fps,
        audio_rate=output.audio_rate,
        picture_start=timing.picture_start,
    )


def row(part: str, seconds: float) -> dict[str, Any]:
    """Time of a part, and the peaks of memory until its end."""
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "part": part,
        "seconds": seconds,
        "GPU peak GiB": torch.cuda.max_memory_reserved() / GIB if on_gpu else None,
        "main memory peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


if __name__ == "__main__":
    try:
        main()
    except (LTX2Error, LongtakeError, ValueError) as error:  # says what is wrong, and where to get what is missing
        sys.exit(f"{type(error).__name__}: {error}")
