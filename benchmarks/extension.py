"""How well films join that extend videos: worlds of the small model, as MP4 files of another rate.

    python benchmarks/extension.py --videos 12

Each video has 3 s of a random world at 30 frames per second, as H.264 and AAC. Two segments continue it. A join is
within bounds if `longtake report` would say so.
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np

from benchmarks import report
from ltx2.engine import Engine
from ltx2.media.crossfade import crossfaded
from ltx2.media.sources.ending import Ending, Wanted
from ltx2.media.sources.extension import extension_of, lead_of, wanted_of
from ltx2.media.sources.pictures import Fit
from ltx2.media.sources.reader import read_ending
from ltx2.quality.continuity import broken
from ltx2.request import SegmentOutput, SegmentRequest
from ltx2.timeline import SegmentShape, continued_timing, exact, first_timing, next_timing
from training.films import joined
from training.world import FPS, FRAMES, HEIGHT, WIDTH, World, draw

SHAPE = SegmentShape(FRAMES, Fraction(FPS))
SECONDS, VIDEO_FPS, VIDEO_RATE = 3.0, 30, 44_100


def video_of(world: World) -> bytes:
    """The first seconds of a world as an MP4."""
    file = io.BytesIO()
    count = round(SECONDS * VIDEO_FPS)
    with av.open(file, "w", format="mp4") as container:
        picture = container.add_stream("libx264", rate=VIDEO_FPS, options={"crf": "18"})
        picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=VIDEO_RATE, layout="stereo")
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(world.frames(number / VIDEO_FPS, 1)[0], format="rgb24")
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        samples = world.samples(0, round(SECONDS * VIDEO_RATE), VIDEO_RATE)
        sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="stereo")
        sound.sample_rate = VIDEO_RATE
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    return file.getvalue()


def tail_of(data: bytes, world: World, rate: int) -> SegmentOutput:
    """The video's last second as a segment, for the measurement: its frames, and the world's sound."""
    wanted = replace(wanted_of(SHAPE, WIDTH, HEIGHT, Fit.CROP), frames=FRAMES)
    frames = ending_of(data, wanted).frames
    first = SECONDS - 1 / VIDEO_FPS - (FRAMES - 1) / FPS
    sound = world.samples(first, round(FRAMES / FPS * rate), rate).T
    return SegmentOutput(frames, sound, rate, None, None, None)  # type: ignore[arg-type]  # not rendered


def ending_of(data: bytes, wanted: Wanted) -> Ending:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return read_ending(file, wanted)


def extended(engine: Engine, world: World, seed: int) -> dict[str, object]:
    """Two segments after a video of `world`: whether both joins are within bounds."""
    data = video_of(world)
    extension = extension_of(ending_of(data, wanted_of(SHAPE, WIDTH, HEIGHT, Fit.CROP)), SHAPE)
    pinned = extension.state.audio_conditioning_num_frames
    latents = engine.encode_sound(extension.sound, pinned, lead=lead_of(extension.sound, pinned))
    state = replace(extension.state, audio_latents=latents, audio_sample_rate=engine.audio_rate)
    first = first_timing(SHAPE)
    offset = exact(state.video_position_offset_sec)
    timing = continued_timing(SHAPE, pinned=pinned, offset=offset, index=1, first_frame=first.new_frames)
    outputs, timings = [tail_of(data, world, engine.audio_rate)], [first]
    for index in range(2):
        outputs.append(engine.run(SegmentRequest(world.prompt, seed + index, WIDTH, HEIGHT, timing), state))
        timings.append(timing)
        state, timing = outputs[-1].state, next_timing(timing)
    plain = joined(outputs, timings).continuity().seams
    v = SHAPE.overlap
    mixed = outputs[0].frames.copy()
    mixed[-v:] = crossfaded(mixed[-v:], outputs[1].frames[:v])
    faded = joined([replace(outputs[0], frames=mixed), *outputs[1:]], timings).continuity().seams
    return {
        "world": world.prompt[:60],
        "within": not broken(plain[:1]),
        "crossfaded within": not broken(faded[:1]),
        "change": round(faded[0].change, 2),
        "usual": round(faded[0].usual_change, 2),
        "next within": not broken(faded[1:]),
        "problems": "; ".join(broken(faded[:1]))[:120],
    }


def main() -> None:
    parser = report.parser(__doc__ or "", "extension")
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    engine = Engine.load("shapes", device="cpu")
    rng = np.random.default_rng(options.seed)
    rows = [extended(engine, draw(rng)[0], number) for number in range(options.videos)]
    for name in ("within", "crossfaded within", "next within"):
        print(f"{name}: {sum(bool(row[name]) for row in rows)} of {len(rows)}")
    report.write("extension", rows, options.json)


if __name__ == "__main__":
    main()
