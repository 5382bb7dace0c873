"""What a spec will render, before anything is rendered."""

from __future__ import annotations

from ltx2.checkpoints.formats.weight_files import has_suffix
from ltx2.checkpoints.resolve import SMALL_MODELS
from ltx2.checkpoints.stamps import stamps_of
from ltx2.timeline import film_frames
from tasks.client.display.pace import Pace
from tasks.client.display.progress import clock
from tasks.field_errors import counted
from tasks.maintenance.admission import estimate_bytes
from tasks.spec.schema import JobSpec


def plan_lines(spec: JobSpec, model: str, *, continues: bool, pace: Pace | None) -> list[str]:
    """The film's length and size, and the room and time it needs; of `frames: auto` the longest.

    model: the spec's, or the default. continues: it continues a state. pace: of earlier segments with the same work, if
    there were any. A film that extends a video also shows the frames that a segment has in common with it, or the whole
    video, whose length is not counted here.
    """
    blobs = f"blobs: at most about {estimate_bytes(spec) / 1e6:,.1f} MB until the job's retention ends"
    count = len(spec.segments)
    lengths = sorted({segment.frames or spec.frames for segment in spec.segments} or {spec.frames})
    length = str(lengths[0]) if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
    if spec.open:
        now = f"{counted(count, 'segment') if count else 'no segments'} of {length} frames now, more are appended later"
        memory = _memory(model, spec.text_encoder)
        return [f"{spec.title}: {spec.width}x{spec.height}, {now}", blobs, memory]
    timings = spec.plan()
    repeated = spec.first_shape.overlap if continues else 0
    frames = film_frames(timings) - (spec.video_overlap if spec.include_video else repeated)
    seconds = float(frames / spec.shape.fps)
    most = "at most " if any(segment.is_undecided for segment in spec.segments) else ""
    return [
        f"{spec.title}: {most}{seconds:.2f} s{_beside_video(spec)}, {counted(frames, 'frame')}, "
        f"{spec.width}x{spec.height}, {counted(count, 'segment')} of {most}{length} frames",
        blobs,
        _memory(model, spec.text_encoder),
        _time(spec, pace, continues=continues or (spec.extend is not None and not spec.before)),
    ]


def _beside_video(spec: JobSpec) -> str:
    """Where the segments are, if the film shows a video too, or leads into one."""
    if spec.include_video:
        return " before the video" if spec.before else " after the video"
    return ", up to the video" if spec.before else ""


def _memory(model: str, text_encoder: str | None) -> str:
    if model in SMALL_MODELS:
        return f"memory: {model} is a small model; its weights have less than 0.1 GB"
    parts = [stamps_of(part) for part in (model, text_encoder) if part is not None]
    if any(part is None for part in parts):
        return "memory: unknown, because the model is not on this machine; see `longtake model check`"
    weights = sum(size for part in parts for name, size, _ in part or () if has_suffix(name))
    return f"memory: the files of weights have {weights / 1e9:,.1f} GB; settings decide how much of them is on the GPU"


def _time(spec: JobSpec, pace: Pace | None, *, continues: bool) -> str:
    """continues: the first segment continues something, so that it may be rendered several times, too."""
    if pace is None:
        return "time: unknown, because nothing of this model and size is on record; shown once the job runs"
    fewest, most = spec.renderings
    scenes = sum(segment.is_new_scene or (index == 0 and not continues) for index, segment in enumerate(spec.segments))
    renderings = scenes + (len(spec.segments) - scenes) * fewest
    about = "at least" if most > fewest else "about"
    each = "a segment" if fewest == 1 else f"each of {renderings} renderings"
    total = clock(renderings * pace.segment_s)
    return f"time: {about} {total} on one worker, at {pace.segment_s:.1f} s for {each}, as for {pace.source}"
