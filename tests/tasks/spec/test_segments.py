"""Values of single segments in a spec: what they mean, and the error for everything that does not fit."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from ltx2.sampling import Scales
from ltx2.timeline import PlannedSegment, SegmentShape, film_frames
from tasks.errors import SpecError
from tasks.field_errors import FieldError
from tasks.jobs.reading.specs import read_segment
from tasks.jobs.records import pack_stored
from tasks.spec.loader import check_spec, load_spec, parse_spec
from tasks.spec.segments import MAX_SEGMENTS, SegmentSpec

FILM = """\
frames: 25
steps: 20
guidance: {cfg: 4, stg: 0}
loras: [{path: a/rain}, {path: a/dusk, weight: 0.5}]
seed: 100
segments:
  - prompt: a harbour
  - prompt: gulls
    frames: 41
    overlap: 17
    steps: 30
    negative_prompt: fog
    guidance: {cfg: [5, 6]}
    loras: [0, 1.5]
  - prompt: the sea
    transition: fade
    fade: 0.25
    repeat: 3
  - prompt: night
    transition: cut
    frames: 9
  - prompt: stars
    overlap: 1
"""


def test_values_of_a_segment_go_before_those_of_the_job() -> None:
    # Given
    spec = parse_spec(FILM)
    first, second = spec.segments[:2]
    # Then a segment without values has the job's
    assert spec.planned(first) == PlannedSegment(SegmentShape(25, Fraction(24), 9))
    assert spec.sampling_of(first) == spec.sampling
    assert [lora.weight for lora in spec.loras_of(first)] == [1, 0.5]
    # And those of another one are its own, guidance by its keys
    assert spec.planned(second) == PlannedSegment(SegmentShape(41, Fraction(24), 17))
    sampling = spec.sampling_of(second)
    assert (sampling.steps, sampling.negative_prompt) == (30, "fog")
    assert (sampling.guidance, sampling.stg, sampling.modality) == (Scales(5, 6), Scales(0, 0), None)
    assert [(lora.path, lora.weight) for lora in spec.loras_of(second)] == [("a/rain", 0), ("a/dusk", 1.5)]


def test_repeated_segments_are_written_out() -> None:
    # Given a spec in which a scene that fades in is three segments long
    spec = parse_spec(FILM)
    # Then the first of them fades, and the others continue it
    prompts = [segment.prompt for segment in spec.segments]
    assert prompts == ["a harbour", "gulls", *["the sea"] * 3, "night", "stars"]
    begins = [segment.transition for segment in spec.segments]
    assert begins == ["continue", "continue", "fade", "continue", "continue", "cut", "continue"]
    assert [segment.fade for segment in spec.segments] == [None, None, 0.25, None, None, None, None]
    # And it is the spec in which they are written out, with its seeds
    written = [{**segment.model_dump()} for segment in spec.segments]
    assert check_spec({**spec.head.model_dump(), "segments": written}) == spec
    assert [spec.seed_of(i, segment) for i, segment in enumerate(spec.segments)] == list(range(100, 107))
    seeded = check_spec({"segments": [{"prompt": "a", "seed": 2**63 - 1, "repeat": 2}]})
    assert [segment.seed for segment in seeded.segments] == [2**63 - 1, 0]
    # And the film has every frame of every scene, less what dissolves
    assert film_frames(spec.plan()) == 25 + 24 + 25 + 16 + 16 + 9 + 24 - 6


def test_lines_of_repeated_segments_are_those_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "film.yaml").write_text(FILM)
    spec = load_spec(tmp_path / "film.yaml")
    places = [spec.source.place("segments", index, "prompt") for index in range(len(spec.segments))]
    lines = [int(place.split(":")[1]) for place in places]
    assert lines == [7, 8, 15, 15, 15, 19, 22]
    assert places[-1].endswith("film.yaml:22: segments.4.prompt")


@pytest.mark.parametrize(
    ("fade", "fps", "frames"), [(0.5, 24, 12), (0.5, 23.976, 12), (0.1, 25, 3), (0.001, 24, 1), (None, 30, 15)]
)
def test_a_fade_is_so_many_frames(fade: float | None, fps: float, frames: int) -> None:
    segments = [{"prompt": "a"}, {"prompt": "b", "transition": "fade", **({} if fade is None else {"fade": fade})}]
    spec = check_spec({"fps": fps, "segments": segments})
    assert [timing.dissolve for timing in spec.plan()] == [0, frames]


def test_a_record_of_a_segment_without_values_is_what_it_was() -> None:
    # Given a segment as 0.2 stored it before segments had values
    plain: dict[str, Any] = {"prompt": "a", "seed": None, "transition": "continue"}
    assert SegmentSpec(prompt="a").model_dump() == plain
    assert not SegmentSpec(prompt="a").has_own_values
    # Then it is read, and one with values is the same after a round trip
    assert read_segment(pack_stored(plain)) == SegmentSpec(prompt="a")
    for segment in parse_spec(FILM).segments:
        assert read_segment(pack_stored(segment.model_dump())) == segment


TWO = "segments: [{prompt: a},\n{prompt: b, "
INVALID = {
    "segments: [{prompt: a, transition: fade}]": ":1: segments.0.transition: the first segment has no scene before it",
    f"{TWO}fade: 1}}]": ":2: segments.1.fade: the length of a dissolve is used with transition: fade only",
    f"{TWO}transition: fade,\nfade: 0}}]": ":3: segments.1.fade: must be greater than 0",
    f"{TWO}transition: fade,\nfade: 11}}]": ":3: segments.1.fade: must be at most 10, not 11",
    f"frames: 25\n{TWO}transition: fade,\nfade: 1}}]": ":4: segments.1.fade: a dissolve of 24 frames is too long: it "
    "may have 12, half of the new frames of the shorter of segments 0 and 1",
    f"frames: 17\n{TWO}transition: fade}}]": ":3: segments.1.transition: a dissolve of 12 frames is too long: it may",
    f"{TWO}frames: 24}}]": ":2: segments.1.frames: 24 is not of the form 8k+1; the nearest are 17 and 25",
    f"frames: 49\n{TWO}frames: auto}}]": ":3: segments.1.frames: overlap 9 must be smaller than frames 9, the fewest",
    f"frames: 49\n{TWO}frames: auto,\noverlap: 17}}]": ":4: segments.1.overlap: overlap 17 must be smaller than",
    "frames: auto\nsegments: [{prompt: a},\n{prompt: b, overlap: 25}]": ":3: segments.1.overlap: overlap 25 must be",
    "segments: [{prompt: a, frames: auto},\n{prompt: b, transition: fade,\nfade: 1}]": ":3: segments.1.fade: a dissol"
    "ve of 24 frames is too long: it may have 12",
    f"{TWO}frames: auto, end_image: a.png}}]": ":2: segments.1.end_image: the end of a segment with frames: auto",
    f"{TWO}frames: auto,\nimages: [{{frame: 1, path: a}}]}}]": ":3: segments.1.images: a segment with frames: auto",
    "frames: auto\nimages: [{at: 1, path: a}]\nsegments: [{prompt: a}]": ":2: images: segment 0 has frames: auto,",
    "frames: auto\nsegments: [{prompt: a}]\naudio: a.wav": ":3: audio: segment 0 has frames: auto, so where it",
    "model: tiny\nsegments: [{prompt: a}, {prompt: b,\nframes: auto}]": ":3: segments.1.frames: auto needs a model wi",
    f"{TWO}frames: often}}]": ":2: segments.1.frames: must be a whole number, not 'often'",
    f"{TWO}overlap: 10}}]": ":2: segments.1.overlap: 10 is not of the form 8k+1; the nearest are 9 and 17",
    f"{TWO}frames: 9}}]": ":2: segments.1.frames: overlap 9 must be smaller than frames 9",
    f"frames: 25\n{TWO}overlap: 25}}]": ":3: segments.1.overlap: overlap 25 must be smaller than frames 25",
    "segments: [{prompt: a, transition: cut,\nframes: 9}, {prompt: b}]": ":2: segments.0.frames: segment 1 repeats 9 "
    "frames of segment 0, which has only 9",
    "segments: [{prompt: a, frames: 17},\n{prompt: b,\noverlap: 17}]": ":3: segments.1.overlap: segment 1 repeats 17",
    f"{TWO}transition: cut, overlap: 9}}]": ":2: segments.1.overlap: a new scene repeats no frames; remove it",
    f"width: 4096\nheight: 4096\n{TWO}overlap: 17}}]": ":4: segments.1.overlap: 17 is too many frames of 4096x4096",
    f"{TWO}steps: 1}}]": ":2: segments.1.steps: must be at least 2, not 1",
    f"sigmas: [1, 0.5]\n{TWO}steps: 9}}]": ":3: segments.1.steps: the job has sigmas, which fix the steps; remove",
    "segments: [{prompt: a, loras: [1]}]": ":1: segments.0.loras: 1 strength for 0 LoRAs of the job; give one for each",
    "loras: [{path: a}]\nsegments: [{prompt: a,\nloras: [3]}]": ":3: segments.0.loras.0: must be at most 2, not 3",
    "segments: [{prompt: a, guidance: {stg: 11}}]": ":1: segments.0.guidance.stg: stg of the picture is 11.0; it must",
    "segments: [{prompt: a boat, low hum}]": ":1: segments.0.low hum: unknown key; if it belongs to the text before it",
    "segments: [{prompt: a, guidance: {cgf: 1}}]": ":1: segments.0.guidance.cgf: unknown key; did you mean cfg?",
    "segments: [{prompt: a, repeat: 0}]": ":1: segments.0.repeat: must be at least 1, not 0",
    "segments: [{prompt: a, repeat: yes}]": ":1: segments.0.repeat: must be a whole number, not 'yes'",
    f"{TWO}repeat: 100000}}]": ":1: segments: with repeat, there are 100,001, more than 100,000",
    f"segments: [{{prompt: {'a' * 8000}, repeat: 600}}]": ":1: segments: their prompts have 4,800,000 characters, more",
    f"model: owner/name\n{TWO}repeat: 9}},\n{{prompt: b,\nframes: 489}}]": ":5: segments.2.frames: 489 at 24 per se",
}


@pytest.mark.parametrize(("text", "message"), INVALID.items(), ids=[repr(text)[:60] for text in INVALID])
def test_the_error_names_the_line_and_the_field(text: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_spec(text, source="job.yaml")
    assert str(error.value).startswith(f"job.yaml{message}")


def test_a_short_scene_needs_no_overlap_of_its_own() -> None:
    # Given scenes that are as short as the overlap of the job, which they do not repeat
    segments = [{"prompt": "a", "frames": 9, "transition": "cut"}] * 3
    # Then the film is all of them
    assert film_frames(check_spec({"segments": segments}).plan()) == 27


def test_what_a_job_continues_counts_in_what_can_dissolve() -> None:
    # Given a first segment of 25 frames, of which 12 dissolve
    spec = check_spec({"frames": 25, "segments": [{"prompt": "a"}, {"prompt": "b", "transition": "fade"}]})
    spec.check_neighbours()
    # When it continues a state, Then only 16 of them are new
    with pytest.raises(FieldError, match="a dissolve of 12 frames is too long: it may have 8"):
        spec.check_neighbours(continues=True)


def test_a_spec_of_repeated_segments_is_as_limited_as_any() -> None:
    assert len(check_spec({"segments": [{"prompt": "a", "repeat": MAX_SEGMENTS}]}).segments) == MAX_SEGMENTS
