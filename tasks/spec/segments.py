"""The segments of a spec: their keys, and the rules between neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core.core_schema import SerializerFunctionWrapHandler

from ltx2.request import MOST_IMAGES
from ltx2.sampling import FEWEST_STEPS, MOST_STEPS
from ltx2.state.arrays import MOST_PIXEL_BYTES
from ltx2.timeline import PlannedSegment, SegmentShape, auto_lengths, exact, exact_seconds, round_half_up, segment_seed
from tasks.field_errors import FieldError, counted
from tasks.spec.guidance import GuidanceSpec

MAX_SEGMENTS = 100_000
MAX_LORAS = 8
MAX_PROMPT_CHARACTERS = 4 * 1024 * 1024
"""Of all segments of a job together; more than a file may have."""
MAX_FILM_IMAGES = 256
LONGEST_FADE_S = 10
DEFAULT_FADE_S = 0.5
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A finite number; true and "1" are none."""
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
LoraWeight = Annotated[Number, Field(ge=-2, le=2)]
ImagePath = Annotated[str, Field(min_length=1, max_length=4096)]
"""A path in a spec, a blob id in a job's record."""


def at_most(count: int) -> BeforeValidator:
    """Refuse a list of more than `count` entries before any of them is checked."""

    def check(value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) > count:
            raise ValueError(f"must have at most {count} entries, not {len(value)}")
        return value

    return BeforeValidator(check)


def check_frames(frames: int, *, below: int | None = None) -> int:
    """Check that a number of frames is of the form 8k+1. ValueError: names the nearest that are `below` another."""
    low = (frames - 1) // 8 * 8 + 1
    if frames != low:
        nearest = [near for near in (low, low + 8) if below is None or near < below]
        named = f"the nearest {'are' if len(nearest) > 1 else 'is'} {' and '.join(map(str, nearest))}"
        raise ValueError(
            f"{frames} is not of the form 8k+1; {named if nearest else 'it must be one, and smaller than frames'}"
        )
    return frames


AUTO = "auto"
LONGEST_FRAMES = 1025
_FRAMES_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 9, "maximum": LONGEST_FRAMES}, {"const": AUTO}]}
Frames = Annotated[int, Field(ge=9, le=LONGEST_FRAMES, strict=True), WithJsonSchema(_FRAMES_SCHEMA)]


class Strict(BaseModel):
    """A table of a spec: other keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SegmentImage(Strict):
    """An image that a segment shows. frame: counted from its first new frame."""

    frame: int = Field(ge=0, strict=True)
    path: ImagePath


class FilmImage(Strict):
    """An image that the film shows. at: seconds from its start. strength: 1, or 0 for an image that is left out."""

    at: Number = Field(ge=0)
    path: ImagePath
    strength: Number = 1.0

    @field_validator("strength")
    @classmethod
    def _none_or_all(cls, strength: float) -> float:
        if strength not in (0, 1):
            raise ValueError(f"{strength:g} is not supported: an image is shown (1) or left out (0)")
        return strength


class SegmentSpec(Strict):
    """One segment, which continues the one before or, with `cut` or `fade`, starts a new scene.

    Of a key that is None, the job's value is used. fade: seconds of a dissolve from the scene before. loras: strengths
    of the job's LoRAs, in their order. image, end_image: what its first new frame and its last frame show. repeat: so
    many segments; a `JobSpec` has them written out. auto_frames: `frames` was `auto`; it is None until a
    worker that renders the segment decides it.
    """

    prompt: str = Field(min_length=1, max_length=8000)
    seed: Seed | None = None
    transition: Literal["continue", "cut", "fade"] = "continue"
    fade: Number | None = Field(default=None, gt=0, le=LONGEST_FADE_S)
    frames: Frames | None = None
    overlap: int | None = Field(default=None, ge=1, strict=True)
    steps: int | None = Field(default=None, ge=FEWEST_STEPS, le=MOST_STEPS, strict=True)
    negative_prompt: str | None = Field(default=None, max_length=8000)
    guidance: GuidanceSpec | None = None
    loras: Annotated[tuple[LoraWeight, ...] | None, at_most(MAX_LORAS)] = None
    image: ImagePath | None = None
    end_image: ImagePath | None = None
    images: Annotated[tuple[SegmentImage, ...] | None, at_most(MOST_IMAGES)] = None
    repeat: int | None = Field(default=None, ge=1, le=MAX_SEGMENTS, strict=True)
    auto_frames: Literal[True] | None = None

    @model_validator(mode="before")
    @classmethod
    def _auto(cls, data: Any) -> Any:
        is_auto = isinstance(data, dict) and data.get("frames") == AUTO
        return {**data, "frames": None, "auto_frames": True} if is_auto else data

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, prompt: str) -> str:
        if not any(character.isprintable() and not character.isspace() for character in prompt):
            raise ValueError("must not be blank")
        return prompt

    @field_validator("frames", "overlap")
    @classmethod
    def _eight_k_plus_one(cls, frames: int | None, info: ValidationInfo) -> int | None:
        below = info.data.get("frames") if info.field_name == "overlap" else None
        return None if frames is None else check_frames(frames, below=below)

    @field_validator("fade")
    @classmethod
    def _for_fades(cls, fade: float | None, info: ValidationInfo) -> float | None:
        if fade is not None and info.data.get("transition", "fade") != "fade":
            raise ValueError("the length of a dissolve is used with transition: fade only")
        return fade

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keys that 0.2 did not always have are written where they are set only, so that other records stay."""
        always = ("prompt", "seed", "transition")
        return {name: value for name, value in handler(self).items() if name in always or value is not None}

    @property
    def is_new_scene(self) -> bool:
        """Whether it does not continue the segment before."""
        return self.transition != "continue"

    @property
    def is_undecided(self) -> bool:
        """Whether its length follows from its prompt, and no worker has decided it yet."""
        return self.auto_frames is True and self.frames is None

    @property
    def undecided(self) -> SegmentSpec:
        """The same without a length that a worker decided."""
        return self.model_copy(update={"frames": None}) if self.auto_frames else self

    @property
    def has_own_values(self) -> bool:
        """Whether versions before 0.2 would render something else: they know no values of single segments."""
        shared = {"prompt", "seed", "transition"}
        own = (getattr(self, name) for name in type(self).model_fields if name not in shared)
        return self.transition == "fade" or any(value is not None for value in own)

    def dissolve(self, fps: Fraction) -> int:
        """Frames of the dissolve with which it begins: those of `fade`, rounded, at least one; 0 without one."""
        if self.transition != "fade":
            return 0
        seconds = DEFAULT_FADE_S if self.fade is None else self.fade
        return max(1, round_half_up(exact_seconds(seconds) * fps))


@dataclass(frozen=True, slots=True)
class SharedValues:
    """The values of a job for segments that have none of their own. loras: how many it has."""

    width: int
    height: int
    frames: int
    fps: float
    overlap: int
    loras: int
    has_sigmas: bool

    def shortest(self, segment: SegmentSpec) -> int:
        """The fewest frames that a segment may have."""
        return segment.frames or (auto_lengths(self.frames)[0] if segment.auto_frames else self.frames)

    def planned(self, segment: SegmentSpec) -> PlannedSegment:
        """The place of a segment, of the longest length while that is undecided.

        Raises:
            TimelineError: it repeats all of its frames, or more.
        """
        frames, overlap = segment.frames or self.frames, segment.overlap or self.overlap
        if segment.is_new_scene and segment.overlap is None:
            overlap = min(overlap, frames - 8)  # of its state alone
        shape = _shape(frames, self.fps, overlap)
        return PlannedSegment(shape, segment.is_new_scene, segment.dissolve(shape.fps))


@lru_cache(maxsize=1024)
def _shape(frames: int, fps: float, overlap: int) -> SegmentShape:
    """The shape with these values. The segments of a job have few different ones, and exact rates take time."""
    return SegmentShape(frames, exact(fps), overlap)


def written_out(segments: Sequence[SegmentSpec]) -> list[SegmentSpec]:
    """The segments, each as often as its `repeat` says.

    The first of them begins as is written, the others continue it. A seed of its own is that of the first.

    Raises:
        ValueError: too many segments, or characters in their prompts.
    """
    count = sum(segment.repeat or 1 for segment in segments)
    if count > MAX_SEGMENTS:
        raise ValueError(f"with repeat, there are {count:,}, more than {MAX_SEGMENTS:,}")
    characters = sum((segment.repeat or 1) * _characters(segment) for segment in segments)
    if characters > MAX_PROMPT_CHARACTERS:
        raise ValueError(f"their prompts have {characters:,} characters, more than {MAX_PROMPT_CHARACTERS:,}")
    return [copy for segment in segments for copy in _copies(segment)]


def check_neighbours(
    segments: Sequence[SegmentSpec], shared: SharedValues, *, continues: bool = False, appended: bool = False
) -> None:
    """Check what depends on the values of the job, and of the segment before.

    segments: not written out, so that errors name what the user wrote. continues: the first one continues a state.
    appended: it comes after those of a job.

    Raises:
        FieldError: names the segment and its field.
    """
    for index, segment in enumerate(segments):
        _check_own(index, segment, shared)
        if index == 0 and segment.transition == "fade" and not appended:
            _refuse(index, "transition", "the first segment has no scene before it to fade from")
        if index > 0:
            before = segments[index - 1]
            repeats = (before.repeat or 1) > 1 or not (before.is_new_scene or (index == 1 and not continues))
            _check_after(index, before, repeats, segment, shared)


def _check_own(index: int, segment: SegmentSpec, shared: SharedValues) -> None:
    frames, overlap = shared.shortest(segment), segment.overlap or shared.overlap
    repeats = bool(segment.overlap) or not segment.is_new_scene or (segment.repeat or 1) > 1
    if (segment.frames or segment.overlap or segment.auto_frames) and repeats and overlap >= frames:
        field, which = "overlap" if segment.overlap else "frames", ", the fewest of auto" * segment.is_undecided
        _refuse(index, field, f"overlap {overlap} must be smaller than frames {frames}{which}")
    if segment.auto_frames and segment.end_image is not None:
        _refuse(index, "end_image", "the end of a segment with frames: auto is not known; give a number of frames")
    if segment.auto_frames and any(image.frame for image in segment.images or ()):
        _refuse(index, "images", "a segment with frames: auto may have one at its first frame only, which is `image`")
    if segment.overlap and overlap * shared.width * shared.height * 3 > MOST_PIXEL_BYTES:
        _refuse(
            index,
            "overlap",
            f"{overlap} is too many frames of {shared.width}x{shared.height}: a state may have {MOST_PIXEL_BYTES:,} "
            f"bytes of pixels, not {overlap * shared.width * shared.height * 3:,}",
        )
    if segment.overlap and index > 0 and segment.is_new_scene and segment.repeat in (None, 1):
        _refuse(index, "overlap", "a new scene repeats no frames; remove it")
    if segment.steps is not None and shared.has_sigmas:
        _refuse(index, "steps", "the job has sigmas, which fix the steps; remove one of the two")
    if segment.loras is not None and len(segment.loras) != shared.loras:
        given = counted(len(segment.loras), "strength")
        _refuse(index, "loras", f"{given} for {counted(shared.loras, 'LoRA')} of the job; give one for each")


def _check_after(index: int, before: SegmentSpec, repeats: bool, segment: SegmentSpec, shared: SharedValues) -> None:
    """Check a segment against the one before it, of which the last copy counts. repeats: that one repeats frames."""
    overlap, frames = segment.overlap or shared.overlap, shared.shortest(before)
    if not segment.is_new_scene and overlap >= frames:
        field = (index, "overlap") if segment.overlap else (index - 1, "frames")
        _refuse(
            *field,
            f"segment {index} repeats {counted(overlap, 'frame')} of segment {index - 1}, which has only {frames}",
        )
    if segment.transition != "fade":
        return
    new = frames - ((before.overlap or shared.overlap) if repeats else 0)
    most = min(new, shared.shortest(segment)) // 2
    wanted = segment.dissolve(exact(shared.fps))
    if wanted > most:
        _refuse(
            index,
            "fade" if segment.fade is not None else "transition",
            f"a dissolve of {wanted} frames is too long: it may have {most}, half of the new frames of the shorter of "
            f"segments {index - 1} and {index}",
        )


def _refuse(index: int, field: str, problem: str) -> None:
    raise FieldError(("segments", index, field), problem)


def _characters(segment: SegmentSpec) -> int:
    return len(segment.prompt) + len(segment.negative_prompt or "")


def _copies(segment: SegmentSpec) -> Iterable[SegmentSpec]:
    if segment.repeat is None:
        return [segment]
    return _repeated(segment, segment.repeat)


def _repeated(segment: SegmentSpec, repeat: int) -> Iterator[SegmentSpec]:
    one = segment.model_copy(update={"repeat": None})
    for number in range(repeat):
        changes: dict[str, Any] = {}
        if number > 0:
            seed = None if segment.seed is None else segment_seed(segment.seed, number)
            changes = {"transition": "continue", "fade": None, "seed": seed, "image": None, "images": None}
        elif repeat > 1 and segment.is_new_scene:  # which repeats nothing; what follows in it does
            changes = {"overlap": None}
        if number + 1 < repeat:
            changes["end_image"] = None
        yield one.model_copy(update=changes)
