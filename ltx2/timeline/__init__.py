"""Positions of frames, audio latents and sound samples in a film: exact arithmetic, no model, no I/O.

In the local time of a segment, audio latent `t` is at 0.04 t seconds and picture frame `j` at `offset + j/fps`. A
continuation pins the last `pinned` audio latents of the previous segment (so its local time 0 is 0.04 (T - pinned) in
that segment) and repeats its last `overlap` frames. Segments may differ in length and in how much they repeat: what a
segment hands on is measured for the overlap of the next one. All positions are `Fraction`s, so they stay exact over any
number of segments.
"""

from __future__ import annotations

from ltx2.timeline.arithmetic import (
    AUDIO_LATENTS_PER_SECOND,
    POSITIONS_S,
    TEMPORAL_COMPRESSION,
    exact,
    exact_seconds,
    film_samples,
    latent_frames,
    latent_of,
    longest_frames,
    round_half_up,
    segment_seed,
    sound_seconds,
)
from ltx2.timeline.lengths import auto_lengths, nearest_length
from ltx2.timeline.parts import (
    FilmPart,
    SourceTiming,
    film_frames,
    shared_frames,
    source_part_frames,
    source_timings,
    source_timings_after,
)
from ltx2.timeline.spans import (
    SoundSpan,
    sound_spans,
    start_after,
)
from ltx2.timeline.timings import (
    DEFAULT_OVERLAP,
    PlannedSegment,
    SegmentShape,
    SegmentTiming,
    continued_timing,
    first_timing,
    handed_on,
    next_timing,
    plan,
    plan_segments,
    planned_frames,
)

__all__ = [
    "AUDIO_LATENTS_PER_SECOND",
    "DEFAULT_OVERLAP",
    "POSITIONS_S",
    "TEMPORAL_COMPRESSION",
    "FilmPart",
    "PlannedSegment",
    "SegmentShape",
    "SegmentTiming",
    "SoundSpan",
    "SourceTiming",
    "auto_lengths",
    "continued_timing",
    "exact",
    "exact_seconds",
    "film_frames",
    "film_samples",
    "first_timing",
    "handed_on",
    "latent_frames",
    "latent_of",
    "longest_frames",
    "nearest_length",
    "next_timing",
    "plan",
    "plan_segments",
    "planned_frames",
    "round_half_up",
    "segment_seed",
    "shared_frames",
    "sound_seconds",
    "sound_spans",
    "source_part_frames",
    "source_timings",
    "source_timings_after",
    "start_after",
]
