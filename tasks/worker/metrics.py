"""Figures of one worker's child for Prometheus: what it rendered, how long it took, what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

if TYPE_CHECKING:
    from ltx2 import LTX2ContinuationState
    from ltx2.request import SegmentOutput
    from ltx2.timeline import SegmentTiming
    from tasks.jobs.records import Handoff
    from tasks.settings import Settings

REGISTRY = CollectorRegistry()
_SECONDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_GAPS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
_LEVELS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)

segments = Counter(
    "longtake_segments_rendered", "Segments that were rendered and committed.", ["kind"], registry=REGISTRY
)
film_seconds = Counter("longtake_film_seconds_rendered", "Seconds of film of these segments.", registry=REGISTRY)
engine_seconds = Histogram(
    "longtake_engine_seconds", "Seconds in the engine, by segment.", buckets=_SECONDS, registry=REGISTRY
)
handoff_seconds = Histogram(
    "longtake_handoff_seconds",
    "Seconds from the end of a segment's engine call to the start of the next one's.",
    buckets=_GAPS,
    registry=REGISTRY,
)
clips = Counter("longtake_clips_made", "Clips that were made and committed.", registry=REGISTRY)
clip_seconds = Histogram(
    "longtake_clip_seconds", "Seconds to encode and store a clip.", buckets=_SECONDS, registry=REGISTRY
)
blob_bytes = Counter("longtake_blob_bytes_stored", "Bytes of clips and films that were stored.", registry=REGISTRY)
failures = Counter(
    "longtake_failed_attempts", "Failed attempts, by unit and error.", ["unit", "error"], registry=REGISTRY
)
releases = Counter(
    "longtake_releases", "Claims given back for an outage or a sick host, by error.", ["error"], registry=REGISTRY
)
repairs = Counter(
    "longtake_repairs_requested",
    "Segments, takes and clips that are made again because a blob was lost, by error.",
    ["unit", "error"],
    registry=REGISTRY,
)
leases_lost = Counter("longtake_leases_lost", "Leases that another holder or a stop ended.", registry=REGISTRY)
seam_change = Histogram(
    "longtake_seam_change", "Mean change of the picture at a join, 0 to 255.", buckets=_LEVELS, registry=REGISTRY
)
usual_change = Histogram(
    "longtake_usual_change",
    "Mean change of the picture from frame to frame within a segment, 0 to 255.",
    buckets=_LEVELS,
    registry=REGISTRY,
)


def serve(settings: Settings) -> None:
    """Answer at LONGTAKE_METRICS_HOST and LONGTAKE_METRICS_PORT from now on, if there is a port.

    Raises:
        OSError: the port is taken.
    """
    if settings.metrics_port is not None:
        start_http_server(settings.metrics_port, addr=settings.metrics_host, registry=REGISTRY)


def segment_rendered(
    handoff: Handoff,
    output: SegmentOutput,
    timing: SegmentTiming,
    *,
    repair: bool,
    before: Handoff | None,
    incoming: LTX2ContinuationState | None,
) -> None:
    """Count a segment that was committed. before, incoming: the handoff and the state that it continues."""
    segments.labels("repair" if repair else "new").inc()
    film_seconds.inc(float(timing.new_frames / timing.shape.fps))
    engine_seconds.observe(handoff.engine_ended - handoff.engine_started)
    if before is not None and before.engine_ended and not repair:
        handoff_seconds.observe(max(0.0, handoff.engine_started - before.engine_ended))
    skipped, frames = timing.skipped_frames, output.frames
    if incoming is not None and incoming.video_frames and skipped:
        seam_change.observe(_change(np.asarray(incoming.video_frames[-1]), frames[skipped]))
    middle = len(frames) // 2
    usual_change.observe(_change(frames[middle - 1], frames[middle]))


def clip_made(size: int, seconds: float) -> None:
    """Count a clip that was committed. size: bytes. seconds: to encode and store it."""
    clips.inc()
    clip_seconds.observe(seconds)
    blob_bytes.inc(size)


def _change(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.abs(after[::4, ::4].astype(np.int16) - before[::4, ::4]).mean())
