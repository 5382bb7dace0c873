"""The schema of a job spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core.core_schema import SerializerFunctionWrapHandler

from ltx2.checkpoints.full_weights import SUFFIX, split_full
from ltx2.checkpoints.lora import Lora
from ltx2.checkpoints.positions import positions_s, problem_with_length
from ltx2.sampling import (
    FEWEST_STEPS,
    MOST_STEPS,
    WORST_CRF,
    Decoder,
    Sampling,
    Shift,
    check_for_two_stages,
    check_sigmas,
)
from ltx2.state.arrays import MOST_PIXEL_BYTES
from ltx2.timeline import (
    DEFAULT_OVERLAP,
    PlannedSegment,
    SegmentShape,
    SegmentTiming,
    exact,
    plan_segments,
    segment_seed,
)
from tasks.field_errors import FieldError, is_shown
from tasks.settings import absolute
from tasks.spec.auto_frames import check_auto, check_head, with_auto_segments
from tasks.spec.guidance import GuidanceSpec
from tasks.spec.places import SpecSource
from tasks.spec.segments import (
    AUTO,
    MAX_FILM_IMAGES,
    MAX_LORAS,
    MAX_SEGMENTS,
    FilmImage,
    Frames,
    LoraWeight,
    Number,
    Seed,
    SegmentSpec,
    SharedValues,
    Strict,
    at_most,
    check_frames,
    check_neighbours,
    written_out,
)

SPATIAL_COMPRESSION = 32
MAX_LABELS = 16
MOST_RENDERINGS = 8
LATER_FIELDS = ("best_of", "retry_joins", "images", "include_video")
"""Are stored where they are set only, so that records of other jobs stay as they were."""
OPEN = "open"
INPUT_FIELDS = ("image", "extend", "audio")
"""Fields of a job that name a file in a spec, and a blob in its record."""


class LoraSpec(Strict):
    """A LoRA that is fused into the model: its path or hub id, and its strength."""

    path: str = Field(min_length=1, max_length=500)
    weight: LoraWeight = 1.0


class CropSpec(Strict):
    """The middle of the rendered pictures that the film shows, in pixels, both even."""

    width: int = Field(ge=2, le=4096, multiple_of=2, strict=True)
    height: int = Field(ge=2, le=4096, multiple_of=2, strict=True)


def _as_lora(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class JobHead(Strict):
    """What all segments of a job share.

    `frames` is per segment; the first `overlap` of them repeat the segment before. Segments may have values of their
    own.
    `image` is what the first segment starts from, `extend` the video that it continues, `audio` the film's sound: a
    path in a spec, a blob id in a job's record. `include_video`: the film begins with the whole of that video.
    """

    title: str = Field("untitled", min_length=1, max_length=120)
    model: str | None = Field(None, min_length=1, max_length=500)
    loras: Annotated[tuple[LoraSpec, ...], at_most(MAX_LORAS)] = ()
    width: int = Field(768, ge=32, le=4096, strict=True)
    height: int = Field(512, ge=32, le=4096, strict=True)
    frames: Frames = 121
    fps: Number = Field(24, ge=1, le=120)
    overlap: int = Field(DEFAULT_OVERLAP, ge=1, strict=True)
    seed: Seed = 0
    stages: int = Field(1, ge=1, le=2, strict=True)
    upsampler: str | None = Field(None, min_length=1, max_length=500)
    stage2_lora: Annotated[LoraSpec | None, BeforeValidator(_as_lora)] = None
    sound_stage: int | None = Field(None, ge=1, le=2, strict=True)
    steps: int | None = Field(None, ge=FEWEST_STEPS, le=MOST_STEPS, strict=True)
    sigmas: Annotated[tuple[Number, ...] | None, at_most(MOST_STEPS)] = None
    shift: Literal["fixed", "tokens"] = "fixed"
    distilled: bool | None = Field(None, strict=True)
    decoder: Literal["convolutional", "diffusion"] = "convolutional"
    text_encoder: str | None = Field(None, min_length=1, max_length=500)
    negative_prompt: str | None = Field(None, max_length=8000)
    guidance: GuidanceSpec = GuidanceSpec()
    image: str | None = Field(None, min_length=1, max_length=4096)
    image_crf: int | None = Field(None, ge=0, le=WORST_CRF, strict=True)
    crop: CropSpec | None = None
    best_of: int | None = Field(None, ge=1, le=MOST_RENDERINGS, strict=True)
    retry_joins: int | None = Field(None, ge=0, le=MOST_RENDERINGS, strict=True)
    webhook: str | None = Field(None, max_length=2000, pattern=r"^https?://[^\s/@]+(/\S*)?$")
    labels: Annotated[dict[str, str], Field(max_length=MAX_LABELS)] = Field(default_factory=dict)
    extend: str | None = Field(None, min_length=1, max_length=4096)
    fit: Literal["crop", "pad"] = "crop"
    include_video: bool = Field(False, strict=True)
    audio: str | None = Field(None, min_length=1, max_length=4096)

    @field_validator("labels")
    @classmethod
    def _short_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for name, text in labels.items():
            if not 1 <= len(name) <= 40 or len(text) > 200 or not is_shown(name) or not is_shown(text):
                raise ValueError("a name has 1 to 40 and a text at most 200 printable characters")
        return labels

    @field_validator("width", "height")
    @classmethod
    def _multiple_of_32(cls, size: int) -> int:
        low = size // SPATIAL_COMPRESSION * SPATIAL_COMPRESSION
        if size != low:
            raise ValueError(f"{size} is not a multiple of 32; the nearest are {low} and {low + SPATIAL_COMPRESSION}")
        return size

    @field_validator("frames", "overlap")
    @classmethod
    def _eight_k_plus_one(cls, frames: int) -> int:
        return check_frames(frames)

    @field_validator("stages")
    @classmethod
    def _halves_fit(cls, stages: int, info: ValidationInfo) -> int:
        step = SPATIAL_COMPRESSION * stages
        for name in ("width", "height"):
            size = info.data.get(name, 0)
            if size % step:
                nearest = " or ".join(str(low) for low in (size // step * step, size // step * step + step) if low)
                raise ValueError(f"{stages} needs a {name} that is a multiple of {step}, not {size}; try {nearest}")
        return stages

    @field_validator("upsampler", "stage2_lora", "sound_stage")
    @classmethod
    def _for_two_stages(cls, value: Any, info: ValidationInfo) -> Any:
        check_for_two_stages(info.data.get("stages", 2), **{str(info.field_name): value})
        return value

    @field_validator("sigmas")
    @classmethod
    def _sigmas_fall(cls, sigmas: tuple[float, ...] | None, info: ValidationInfo) -> tuple[float, ...] | None:
        if sigmas is not None:
            check_sigmas(sigmas)
            if info.data.get("steps") not in (None, len(sigmas)):
                raise ValueError(f"there are {len(sigmas)} and steps is {info.data['steps']}; remove one of the two")
        return sigmas

    @field_validator("title")
    @classmethod
    def _one_line(cls, title: str) -> str:
        if not is_shown(title):
            raise ValueError("must be one line of printable characters")
        return title

    @model_validator(mode="after")
    def _overlap_fits(self) -> Self:
        if self.overlap >= self.frames:
            overlap, frames = (self._named(name) for name in ("overlap", "frames"))
            field = "overlap" if "overlap" in self.model_fields_set else "frames"
            raise FieldError(field, f"{overlap} must be smaller than {frames}")
        if self.crop is not None:
            for name in ("width", "height"):
                if getattr(self.crop, name) > getattr(self, name):
                    raise FieldError("crop", f"{name} {getattr(self.crop, name)} is more than {self._named(name)}")
        pixel_bytes = self.overlap * self.width * self.height * 3
        if pixel_bytes > MOST_PIXEL_BYTES:
            raise FieldError(
                "width" if "overlap" not in self.model_fields_set else "overlap",
                f"{self._named('overlap')} is too many frames of {self.width}x{self.height}: a state may have "
                f"{MOST_PIXEL_BYTES:,} bytes of pixels, not {pixel_bytes:,}",
            )
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value or name not in LATER_FIELDS}

    @property
    def renderings(self) -> tuple[int, int]:
        """How often a continuation is rendered to choose from, and at most if none of them joins well."""
        fewest = self.best_of or 1
        return fewest, fewest + (self.retry_joins or 0)

    def _named(self, field: str) -> str:
        default = "" if field in self.model_fields_set else " (the default)"
        return f"{field} {getattr(self, field)}{default}"

    @property
    def shape(self) -> SegmentShape:
        """The shape of every segment without one of its own. An fps of 23.976 means exactly 24000/1001."""
        return SegmentShape(frames=self.frames, fps=exact(self.fps), overlap=self.overlap)

    @property
    def shared(self) -> SharedValues:
        """The values that segments share."""
        return shared_values(dict(self))

    def planned(self, segment: SegmentSpec) -> PlannedSegment:
        """The shape of `segment`, and how it begins."""
        return self.shared.planned(segment)

    def sampling_of(self, segment: SegmentSpec) -> Sampling:
        """The sampling parameters of `segment`: its own values, and the job's for all others."""
        own: dict[str, Any] = segment.guidance.scales if segment.guidance else {}
        for name in ("steps", "negative_prompt"):
            if (value := getattr(segment, name)) is not None:
                own[name] = value
        return replace(self.sampling, **own) if own else self.sampling

    def loras_of(self, segment: SegmentSpec) -> tuple[LoraSpec, ...]:
        """The job's LoRAs with their strengths in `segment`."""
        if segment.loras is None:
            return self.loras
        pairs = zip(self.loras, segment.loras, strict=True)
        return tuple(lora.model_copy(update={"weight": weight}) for lora, weight in pairs)

    @property
    def sampling(self) -> Sampling:
        """The sampling parameters of every segment without some of its own."""
        return Sampling(
            self.stages,
            self.steps,
            self.negative_prompt,
            **self.guidance.scales,
            sigmas=self.sigmas,
            shift=Shift(self.shift),
            distilled=self.distilled,
            image_crf=self.image_crf,
            sound_stage=self.sound_stage,
            decoder=Decoder(self.decoder),
            upsampler=self.upsampler,
            stage2_lora=Lora(self.stage2_lora.path, self.stage2_lora.weight) if self.stage2_lora else None,
        )

    @property
    def more_files(self) -> dict[str, str]:
        """What the spec names in addition to its model and LoRAs, by field."""
        named = {
            "text_encoder": self.text_encoder,
            "upsampler": self.upsampler,
            "stage2_lora.path": self.stage2_lora.path if self.stage2_lora else None,
        }
        return {field: path for field, path in named.items() if path is not None}

    def seed_of(self, index: int, segment: SegmentSpec) -> int:
        """The seed of `segment`: its own if it has one, else the job's plus `index`."""
        return segment_seed(self.seed, index) if segment.seed is None else segment.seed


def shared_values(head: Mapping[str, Any]) -> SharedValues:
    """The values that segments share, of a head as a mapping. KeyError: one is missing."""
    names = ("width", "height", "frames", "fps", "overlap")
    return SharedValues(
        **{name: head[name] for name in names}, loras=len(head["loras"]), has_sigmas=head["sigmas"] is not None
    )


class JobSpec(JobHead):
    """One long video: what all segments share, the segments, and whether the job waits for its user.

    `open`: at its end it waits for more segments. `approve`: it waits for approval after each segment. `parallel`: idle
    workers render what begins with a cut beside what is before it. Repeated segments are written out.
    """

    open: bool = Field(False, strict=True)
    approve: bool = Field(False, strict=True)
    parallel: bool = Field(True, strict=True)
    images: Annotated[tuple[FilmImage, ...], at_most(MAX_FILM_IMAGES)] = ()
    segments: Annotated[list[SegmentSpec], at_most(MAX_SEGMENTS)] = Field()

    _source: SpecSource = PrivateAttr(default_factory=SpecSource)

    @model_validator(mode="before")
    @classmethod
    def _words(cls, data: Any) -> Any:
        """`segments: open` means `open: true` and no segment yet; `frames: auto` means each segment's."""
        if isinstance(data, dict) and data.get("segments") == OPEN:
            data = {**data, "segments": [], "open": data.get("open", True)}
        return with_auto_segments(data) if isinstance(data, dict) and data.get("frames") == AUTO else data

    @property
    def source(self) -> SpecSource:
        """Where the spec was written; errors that are found later name its lines."""
        return self._source

    def written_in(self, source: SpecSource) -> Self:
        """The same spec, read from `source`."""
        copy = self.model_copy()
        copy._source = source
        return copy

    @field_validator("segments")
    @classmethod
    def _fit(cls, segments: list[SegmentSpec], info: ValidationInfo) -> list[SegmentSpec]:
        if not segments and not info.data.get("open", True):
            raise ValueError("must have at least one, or be `open`: then segments are appended later")
        with suppress(KeyError):  # of a value of the job that is invalid itself
            check_neighbours(segments, shared_values(info.data), continues=info.data["extend"] is not None)
            if info.data["model"] is not None:
                _check_own_lengths(segments, info.data["fps"], info.data["model"])
        return written_out(segments)

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.extend is not None and self.image is not None:
            raise FieldError("image", "a job that extends a video starts with its frames; remove one of the two")
        if self.extend is not None and self.audio is not None:
            raise FieldError("audio", "a job that extends a video goes on with its sound; remove one of the two")
        if self.extend is not None and self.segments and self.segments[0].transition == "cut":
            raise FieldError("extend", "a job that extends a video cannot start with a cut")
        return self

    @model_validator(mode="after")
    def _auto_fits(self) -> Self:
        check_auto(self.segments, has_images=bool(self.images), has_audio=self.audio is not None)
        return self

    @model_validator(mode="after")
    def _full_is_not_distilled(self) -> Self:
        if self.distilled and self.model is not None and split_full(self.model)[1]:
            raise ValueError(f"distilled: {SUFFIX} names weights that are not distilled; remove one of the two")
        return self

    @model_validator(mode="after")
    def _positions_reach(self) -> Self:
        if self.model is not None:  # otherwise it is known where the job is submitted
            self.check_length(self.model)
        return self

    def check_length(self, model: str) -> None:
        """Check that `model` has positions for all frames of each segment, and finds a length where it is to.

        Raises:
            FieldError: it has not, or does not.
        """
        if problem := problem_with_length(self.frames, exact(self.fps), positions_s(model)):
            raise FieldError("frames", problem)
        _check_own_lengths(self.segments, self.fps, model)
        check_head(self.segments, model)

    def check_neighbours(self, *, continues: bool = False) -> None:
        """Check what depends on the segment before. continues: the first one continues a state. FieldError: where."""
        check_neighbours(self.segments, self.shared, continues=continues or self.extend is not None)
        check_auto(self.segments, has_images=bool(self.images), has_audio=self.audio is not None)
        if self.model is not None:
            check_head(self.segments, self.model)

    @property
    def first_shape(self) -> SegmentShape:
        """The shape of the first segment; without one, the job's."""
        return self.planned(self.segments[0]).shape if self.segments else self.shape

    def plan(self) -> list[SegmentTiming]:
        """The timings of a film of these segments that continues nothing."""
        return plan_segments([self.planned(segment) for segment in self.segments])

    def with_absolute_paths(self) -> Self:
        """The spec with absolute paths of the models, LoRAs and upsampler that exist here, not hub ids."""
        return self.model_copy(
            update={
                "model": self.model and absolute(self.model),
                "text_encoder": self.text_encoder and absolute(self.text_encoder),
                "loras": tuple(_absolute(lora) for lora in self.loras),
                "stage2_lora": self.stage2_lora and _absolute(self.stage2_lora),
                "upsampler": self.upsampler and absolute(self.upsampler),
            }
        )

    def has_parallel_parts(self, rendered: int) -> bool:
        """Whether parts may be rendered in parallel, when so many segments are rendered already."""
        is_in_order = self.open or self.approve or not self.parallel
        return not is_in_order and any(segment.transition == "cut" for segment in self.segments[rendered + 1 :])

    @property
    def head(self) -> JobHead:
        """The spec without its segments."""
        return JobHead.model_validate(self.model_dump(exclude={"segments", "open", "approve", "parallel", "images"}))


def _check_own_lengths(segments: Sequence[SegmentSpec], fps: float, model: str) -> None:
    """Check that `model` has positions for all frames of segments with a length of their own."""
    rate, positions = exact(fps), positions_s(model)
    problems: dict[int, str | None] = {}
    for index, segment in enumerate(segments):
        if segment.frames is None:
            continue
        if segment.frames not in problems:
            problems[segment.frames] = problem_with_length(segment.frames, rate, positions)
        if problem := problems[segment.frames]:
            raise FieldError(("segments", index, "frames"), problem)


def _absolute(lora: LoraSpec) -> LoraSpec:
    return lora.model_copy(update={"path": absolute(lora.path)})
