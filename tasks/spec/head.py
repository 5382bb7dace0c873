"""What all segments of a job share, as a spec and a record have it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core.core_schema import SerializerFunctionWrapHandler

from ltx2.checkpoints.loras.lora import Lora
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
    exact,
    segment_seed,
)
from tasks.field_errors import FieldError, is_shown
from tasks.spec.guidance import GuidanceSpec
from tasks.spec.segments import (
    MAX_LORAS,
    Frames,
    LoraWeight,
    Number,
    Seed,
    SegmentSpec,
    SharedValues,
    Strict,
    at_most,
    check_frames,
)

SPATIAL_COMPRESSION = 32
WEBHOOK = re.compile(r"https?://[^\s/@]+(/\S*)?")
MAX_LABELS = 16
MOST_RENDERINGS = 8
LATER_FIELDS = ("best_of", "retry_joins", "images", "include_video", "before")
"""Are stored where they are set only, so that records of other jobs stay as they were. So is `parallel: false`."""
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
    path in a spec, a blob id in a job's record. `before`: the segments lead into that video instead. `include_video`:
    the film has the whole of that video.
    `parallel`: idle workers render what begins with a cut at the same time as what is before it.
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
    webhook: str | None = Field(None, max_length=2000)
    labels: Annotated[dict[str, str], Field(max_length=MAX_LABELS)] = Field(default_factory=dict)
    extend: str | None = Field(None, min_length=1, max_length=4096)
    fit: Literal["crop", "pad"] = "crop"
    include_video: bool = Field(False, strict=True)
    before: bool = Field(False, strict=True)
    audio: str | None = Field(None, min_length=1, max_length=4096)
    parallel: bool = Field(True, strict=True, exclude_if=bool)

    @field_validator("labels")
    @classmethod
    def _short_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for name, text in labels.items():
            if not 1 <= len(name) <= 40 or len(text) > 200 or not is_shown(name) or not is_shown(text):
                raise ValueError("a name has 1 to 40 and a text at most 200 printable characters")
        return labels

    @field_validator("webhook")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        if url is not None and not WEBHOOK.fullmatch(url):
            raise ValueError("must be an http:// or https:// URL, such as https://example.com/hook, without a user")
        return url

    @field_validator("width", "height")
    @classmethod
    def _multiple_of_32(cls, size: int) -> int:
        low = size // SPATIAL_COMPRESSION * SPATIAL_COMPRESSION
        if size != low:
            raise ValueError(f"{size} is not a multiple of 32; the nearest are {low} and {low + SPATIAL_COMPRESSION}")
        return size

    @field_validator("frames", "overlap")
    @classmethod
    def _eight_k_plus_one(cls, frames: int, info: ValidationInfo) -> int:
        below = info.data.get("frames", 0) if info.field_name == "overlap" else None  # 0: they are invalid
        return check_frames(frames, below=below)

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
    def continues_video(self) -> bool:
        """Whether the first segment continues the end of a video."""
        return self.extend is not None and not self.before

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
