"""How well films join that extend videos: worlds of the small model, as MP4 files of another rate.

    python benchmarks/extension.py --videos 12
    python benchmarks/extension.py --videos 12 --before
    python benchmarks/extension.py --videos 12 --before --segments 3

Each video has 3 s of a random world at 30 frames per second, as H.264 and AAC. Two segments continue it. A join is
within bounds if `longtake report` would say so.

--before: segments lead into each video instead, one or as many as --segments says. Several begin with a picture of the
world, as `image`, because a model that only sees the prompt may begin anywhere. The controls are the same last segment
without the video's sound, and without anything of it. Pitches are compared with those of the world itself.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import IO

import av
import numpy as np

from benchmarks import report
from ltx2.engine import Engine
from ltx2.media.crossfade import crossfaded, crossfaded_into
from ltx2.media.sources.excerpts import Excerpt, Wanted
from ltx2.media.sources.extension import extension_of, lead_of, wanted_of
from ltx2.media.sources.lead_in import lead_in, wanted_beginning
from ltx2.media.sources.pictures import Fit
from ltx2.media.sources.reader import read_beginning, read_ending
from ltx2.quality.continuity import Continuity, broken
from ltx2.quality.insides import insides, leaps
from ltx2.request import SegmentOutput, SegmentRequest, VideoAfter
from ltx2.timeline import (
    SegmentShape,
    SegmentTiming,
    continued_timing,
    exact,
    film_frames,
    first_timing,
    next_timing,
)
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


def ending_of(data: bytes, wanted: Wanted) -> Excerpt:
    return read(read_ending, data, wanted)


def read(how: Callable[[IO[bytes], Wanted], Excerpt], data: bytes, wanted: Wanted) -> Excerpt:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return how(file, wanted)


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


def preceded(engine: Engine, world: World, seed: int, *, segments: int) -> dict[str, object]:
    """Segments that lead into a video of `world`: whether they join with it and each other, and the segments inside."""
    data, timings = video_of(world), timings_of(segments)
    beginning = read(read_beginning, data, wanted_beginning(SHAPE, WIDTH, HEIGHT, Fit.CROP))
    shared = len(beginning.frames)
    sound = lead_in(timings[-1], beginning.sound, shared)
    end = VideoAfter(beginning.frames, engine.encode_sound(sound.sound, sound.latents, lead=sound.lead))
    following = next_timing(timings[-1])
    wanted = replace(wanted_beginning(SHAPE, WIDTH, HEIGHT, Fit.CROP), frames=FRAMES)
    length = round((float(following.offset) + FRAMES / FPS) * engine.audio_rate) + engine.audio_rate // 10
    heard = world.samples(-float(following.offset), length, engine.audio_rate).T
    frames = read(read_beginning, data, wanted).frames
    video = SegmentOutput(frames, heard, engine.audio_rate, None, None, None)  # type: ignore[arg-type]  # not rendered
    requests = [SegmentRequest(world.prompt, seed + one.index, WIDTH, HEIGHT, one) for one in timings]
    if segments > 1:
        picture = world.frames((shared - film_frames(timings)) / FPS, 1)[0]
        requests[0] = replace(requests[0], image=picture)
    before: list[SegmentOutput] = []
    for request in requests[:-1]:
        before.append(engine.run(request, before[-1].state if before else None))

    def seen(made: SegmentOutput) -> tuple[Continuity, Continuity]:
        """As it is, and crossfaded."""
        mixed = replace(made, frames=crossfaded_into(made.frames, frames[:shared]))
        plain, faded = (joined([*before, one, video], [*timings, following]).continuity() for one in (made, mixed))
        return plain, faded

    def rendered(end: VideoAfter | None) -> tuple[Continuity, Continuity]:
        return seen(engine.run(replace(requests[-1], end=end), before[-1].state if before else None))

    start = -(FRAMES - shared) / FPS
    true = world.frames(start, FRAMES), world.samples(start - float(timings[-1].offset), length, engine.audio_rate).T
    _, own = seen(replace(video, frames=true[0], sound=true[1]))

    def off(found: Continuity) -> float:
        return round(abs(found.seams[-1].sound.pitch_step - own.seams[-1].sound.pitch_step), 2)

    plain, faded = rendered(end)
    _, without_sound = rendered(replace(end, audio_latents=end.audio_latents[:, :, :0]))
    free, _ = rendered(None)
    inside = leaps(insides(faded)[:segments])
    return {
        "world": world.prompt[:60],
        "within": not broken(plain.seams[-1:]),
        "crossfaded within": not broken(faded.seams[-1:]),
        "joins of segments within": not broken(faded.seams[:-1]),
        "no leap inside": not inside,
        "semitones off": off(faded),
        "control without its sound, semitones off": off(without_sound),
        "control without it: within": not broken(free.seams[-1:]),
        "problems": "; ".join([*broken(faded.seams), *inside])[:160],
    }


def timings_of(segments: int) -> list[SegmentTiming]:
    """The timings of a film of one scene."""
    timings = [first_timing(SHAPE)]
    while len(timings) < segments:
        timings.append(next_timing(timings[-1]))
    return timings


def main() -> None:
    parser = report.parser(__doc__ or "", "extension")
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--before", action="store_true", help="segments before the videos")
    parser.add_argument("--segments", type=int, default=1, help="with --before: how many lead into each video")
    options = parser.parse_args()
    engine = Engine.load("shapes", device="cpu")
    rng = np.random.default_rng(options.seed)
    measure = partial(preceded, segments=options.segments) if options.before else extended
    rows = [measure(engine, draw(rng)[0], number) for number in range(options.videos)]
    for name in [name for name in rows[0] if name.endswith(("within", "inside"))]:
        print(f"{name}: {sum(bool(row[name]) for row in rows)} of {len(rows)}")
    report.write("extension", rows, options.json, segments=options.segments if options.before else 2)


if __name__ == "__main__":
    main()
