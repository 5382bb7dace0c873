"""What a spec will render, before anything is rendered."""

from __future__ import annotations

from ltx2.timeline import film_frames, plan
from tasks.maintenance.admission import estimate_bytes
from tasks.spec.schema import JobSpec


def plan_lines(spec: JobSpec, *, continues: bool) -> list[str]:
    """The film's length and size, and the room it needs in the blob store. continues: it continues a state."""
    blobs = f"blobs: at most about {estimate_bytes(spec) / 1e6:,.1f} MB until the job's retention ends"
    count = len(spec.segments)
    if spec.open:
        now = f"{count or 'no'} segment{'' if count == 1 else 's'} of {spec.frames} frames now, more are appended later"
        return [f"{spec.title}: {spec.width}x{spec.height}, {now}", blobs]
    timings = plan(spec.shape, [segment.transition == "cut" for segment in spec.segments])
    frames = film_frames(timings) - (spec.overlap if continues else 0)
    seconds = float(frames / spec.shape.fps)
    return [
        f"{spec.title}: {seconds:.2f} s, {frames} frames, {spec.width}x{spec.height}, "
        f"{count} segment{'s' if count > 1 else ''} of {spec.frames} frames",
        blobs,
        "time: shown while the job runs, from its first step on",
    ]
