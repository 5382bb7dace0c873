"""How well segments join the ones before them: measured from two clips when somebody asks, and remembered."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from pydantic import BaseModel

from ltx2.media.film import join_film
from ltx2.media.temporary import temporary_folder
from ltx2.quality.continuity import Seam, continuity
from ltx2.quality.film_reader import film_pieces, film_sound
from ltx2.quality.joins import Join, join_in
from ltx2.timeline import SegmentTiming
from tasks.client.takes import clip_blob
from tasks.deployment import Deployment
from tasks.errors import JobStateError
from tasks.server.films.blob_files import FOLDERS
from tasks.server.films.turns import Turns

KEPT = 5000


class JoinView(BaseModel):
    """A join to the segment before; the figures of `longtake report`, null where there is nothing to measure.

    cut: whether it is meant to be visible. change: of the picture at the join, 0 to 255; usual_change, largest_change:
    from frame to frame in both segments. loudness_step: dB; pitch_step: semitones; click: the largest step between
    samples; with what is usual around them. excess: the largest part of a bound, above 1 is out of it. wrong: what is
    out of bounds, in words, here or inside the segment.
    """

    segment: int
    cut: bool
    change: float
    usual_change: float
    largest_change: float
    loudness_step: float | None
    usual_loudness_step: float | None
    pitch_step: float | None
    click: float | None
    usual_click: float | None
    excess: float | None
    wrong: list[str]


class Joins:
    """The joins that were measured, one at a time; the oldest are forgotten."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._known: OrderedDict[tuple[str, str], JoinView] = OrderedDict()
        self._turns = Turns()

    def of(self, job_id: str, segment: int, take: int | None = None) -> JoinView:
        """The join of a segment, or of one of its takes, to what the film shows before it.

        Raises:
            JobStateError: it has no clip, or there is no segment before it. MediaError: a clip is damaged. Errors of
            the blob store. RequestError: too many wait for joins.
        """
        jobs = self._deployment.jobs
        clips, timings = jobs.clips(job_id), jobs.places(job_id)
        if segment == 0 or not {segment - 1, segment} <= clips.keys() & timings.keys():
            raise JobStateError(f"job {job_id} has no join of segment {segment} yet")
        shown = clips[segment].blob_id
        after = shown if take is None else clip_blob(self._deployment, job_id, segment, take)
        blobs = (clips[segment - 1].blob_id, after)
        if (known := self._known.get(blobs)) is not None:
            return known  # without waiting for another join
        with self._turns.turn():
            if blobs not in self._known:
                data = [self._deployment.blobs.get(blob) for blob in blobs]
                self._known[blobs] = measured(data, [timings[segment - 1], timings[segment]])
                if len(self._known) > KEPT:
                    self._known.popitem(last=False)
            return self._known[blobs]


def measured(clips: Sequence[bytes], timings: Sequence[SegmentTiming]) -> JoinView:
    """Measure the join of two clips, as in a film of these two segments.

    Raises:
        MediaError: a clip is damaged, or does not fit its timing.
    """
    timings = [replace(timing, first_frame=timing.first_frame - timings[0].first_frame) for timing in timings]
    with temporary_folder(f"{FOLDERS}join-") as folder:
        path = folder / "film.mp4"
        join_film(clips, timings, path)
        data = path.read_bytes()
    sound, rate = film_sound(data, timings)
    found = continuity(film_pieces(data, timings), sound, rate, timings)
    return _view(timings[1].index, found.seams[0], join_in(found))


def _view(segment: int, seam: Seam, join: Join) -> JoinView:
    wrong = [text.partition(": ")[2] for text in join.wrong]
    heard = {
        name: _finite(getattr(seam.sound, name))
        for name in ("loudness_step", "usual_loudness_step", "pitch_step", "click", "usual_click")
    }
    pictures = {name: round(getattr(seam, name), 4) for name in ("change", "usual_change", "largest_change")}
    return JoinView.model_validate(
        {"segment": segment, "cut": seam.cut, "excess": _finite(join.excess), "wrong": wrong, **pictures, **heard}
    )


def _finite(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None
