"""How well films join that extend videos: worlds of the small model, as MP4 files of another rate.

    python benchmarks/extension.py --videos 12
    python benchmarks/extension.py --videos 12 --before

Each video has 3 s of a random world at 30 frames per second, as H.264 and AAC. Two segments continue it. A join is
within bounds if `longtake report` would say so.

--before: one segment leads into each video instead. The controls are the same segment without the video's sound, and
without anything of it. Pitches are compared with those of the world itself.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
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


def preceded(engine: Engine, world: World, seed: int) -> dict[str, object]:
    """A segment that leads into a video of `world`: whether the join is within bounds, and the segment inside."""
    data, timing = video_of(world), first_timing(SHAPE)
    beginning = read(read_beginning, data, wanted_beginning(SHAPE, WIDTH, HEIGHT, Fit.CROP))
    shared = len(beginning.frames)
    sound = lead_in(timing, beginning.sound, shared)
    end = VideoAfter(beginning.frames, engine.encode_sound(sound.sound, sound.latents, lead=sound.lead))
    following = next_timing(timing)
    wanted = replace(wanted_beginning(SHAPE, WIDTH, HEIGHT, Fit.CROP), frames=FRAMES)
    length = round((float(following.offset) + FRAMES / FPS) * engine.audio_rate) + engine.audio_rate // 10
    heard = world.samples(-float(following.offset), length, engine.audio_rate).T
    frames = read(read_beginning, data, wanted).frames
    video = SegmentOutput(frames, heard, engine.audio_rate, None, None, None)  # type: ignore[arg-type]  # not rendered

    def seen(made: SegmentOutput) -> tuple[Continuity, Continuity]:
        """As it is, and crossfaded."""
        mixed = replace(made, frames=crossfaded_into(made.frames, frames[:shared]))
        plain, faded = (joined([one, video], [timing, following]).continuity() for one in (made, mixed))
        return plain, faded

    def rendered(end: VideoAfter | None) -> tuple[Continuity, Continuity]:
        return seen(engine.run(SegmentRequest(world.prompt, seed, WIDTH, HEIGHT, timing, end=end)))

    start = -(FRAMES - shared) / FPS
    true = world.frames(start, FRAMES), world.samples(start, length, engine.audio_rate).T
    _, own = seen(replace(video, frames=true[0], sound=true[1]))

    def off(found: Continuity) -> float:
        return round(abs(found.seams[0].sound.pitch_step - own.seams[0].sound.pitch_step), 2)

    plain, faded = rendered(end)
    _, without_sound = rendered(replace(end, audio_latents=end.audio_latents[:, :, :0]))
    free, _ = rendered(None)
    return {
        "world": world.prompt[:60],
        "within": not broken(plain.seams),
        "crossfaded within": not broken(faded.seams),
        "no leap inside": not leaps(insides(faded)[:1]),
        "semitones off": off(faded),
        "control without its sound, semitones off": off(without_sound),
        "control without it: within": not broken(free.seams),
        "problems": "; ".join([*broken(faded.seams), *leaps(insides(faded)[:1])])[:160],
    }


def main() -> None:
    parser = report.parser(__doc__ or "", "extension")
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--before", action="store_true", help="segments before the videos")
    options = parser.parse_args()
    engine = Engine.load("shapes", device="cpu")
    rng = np.random.default_rng(options.seed)
    measure = preceded if options.before else extended
    rows = [measure(engine, draw(rng)[0], number) for number in range(options.videos)]
    for name in [name for name in rows[0] if name.endswith(("within", "inside"))]:
        print(f"{name}: {sum(bool(row[name]) for row in rows)} of {len(rows)}")
    report.write("extension", rows, options.json)


if __name__ == "__main__":
    main()
