"""The film summary: what `NAME.report.json` says about a job."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from tasks.jobs.reader import JobReader
from tasks.jobs.records import FilmRecord, Handoff
from tasks.jobs.state_wire import handoff_blobs


def film_summary(jobs: JobReader, job_id: str, *, of_film: bool = False) -> dict[str, Any]:
    """The content of `NAME.report.json`. The film's own fields are present once the job is done. Times are in seconds.

    of_film: only the segments that are in the film; others may have been appended since.

    `handoff_s` is the time from a segment's engine end to the next segment's engine start, None for the last one, and
    where the next one was rendered earlier, in a part of its own.
    """
    status, head = jobs.status(job_id), jobs.head(job_id)
    clips, prompts, takes = jobs.clips(job_id), jobs.prompts(job_id), jobs.takes(job_id)
    handoffs = [takes.handoff(original) for original in jobs.handoffs(job_id)]
    summary: dict[str, Any] = {"job_id": job_id, "title": status.title, "model": head.model}
    if status.film is not None:
        summary |= _of_film(status.film)
    if of_film and status.film is not None and status.film.segments:
        handoffs = [handoff for handoff in handoffs if handoff.index < status.film.segments]
    segments = []
    for handoff, after in zip(handoffs, [*handoffs[1:], None], strict=False):
        clip, take = clips.get(handoff.index), takes.takes.get((handoff.index, takes.shown.get(handoff.index, 0)))
        prompt = take.request.prompt if take else None
        segments.append(
            {
                "index": handoff.index,
                "seed": handoff.seed,
                "prompt": prompts[handoff.index] if prompt is None else prompt,
                **({"take": take.number} if take and take.number else {}),
                "engine_s": round(handoff.engine_ended - handoff.engine_started, 3),
                **({"made_with": handoff.made_with} if handoff.made_with else {}),  # 0.1 did not record it
                **({"render_class": handoff.render_class} if handoff.render_class else {}),
                "handoff_s": _seconds_between(handoff, after),
                **({"warnings": list(handoff.warnings)} if handoff.warnings else {}),
                "blobs": {"handoff": handoff_blobs(handoff), "clip": clip.blob_id if clip else None},
            }
        )
    return summary | {"segments": segments}


def _of_film(film: FilmRecord) -> dict[str, Any]:
    rate = Fraction(film.fps)
    return {
        "width": film.width,
        "height": film.height,
        "fps": int(rate) if rate.denominator == 1 else round(float(rate), 3),
        "frames": film.frames,
        "duration_s": film.duration_s,
        "audio_sample_rate": film.audio_sample_rate,
        "audio_samples": film.audio_samples,
        "sha256": film.sha256,
    }


def _seconds_between(handoff: Handoff, after: Handoff | None) -> float | None:
    is_next = after is not None and after.index == handoff.index + 1
    if after is None or not is_next or (not after.continued and after.engine_started < handoff.engine_ended):
        return None
    return round(after.engine_started - handoff.engine_ended, 3)
