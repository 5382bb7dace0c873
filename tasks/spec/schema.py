"""The schema of a job spec."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ltx2.checkpoints.full_weights import SUFFIX, split_full
from ltx2.checkpoints.positions import positions_s, problem_with_length
from ltx2.timeline import (
    SegmentShape,
    SegmentTiming,
    exact,
    plan_segments,
    shared_frames,
)
from tasks.field_errors import FieldError
from tasks.settings import absolute
from tasks.spec.auto_frames import check_auto, check_head, with_auto_segments
from tasks.spec.before import check_before
from tasks.spec.head import JobHead, LoraSpec, shared_values
from tasks.spec.places import SpecSource
from tasks.spec.segments import (
    AUTO,
    MAX_FILM_IMAGES,
    MAX_SEGMENTS,
    FilmImage,
    SegmentSpec,
    at_most,
    check_neighbours,
    written_out,
)

OPEN = "open"


APPENDED = "appended"
"""The context in which a spec is validated whose segments come after those of a job."""


class JobSpec(JobHead):
    """One long video: what all segments share, the segments, and whether the job waits for its user.

    `open`: at its end it waits for more segments. `approve`: it waits for approval after each segment. Repeated
    segments are written out.
    """

    open: bool = Field(False, strict=True)
    approve: bool = Field(False, strict=True)
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
            check_neighbours(
                segments,
                shared_values(info.data),
                continues=info.data["extend"] is not None and not info.data["before"],
                appended=info.context == APPENDED,
            )
            if info.data["model"] is not None:
                _check_own_lengths(segments, info.data["fps"], info.data["model"])
        return written_out(segments)

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.continues_video and self.image is not None:
            raise FieldError("image", "a job that extends a video starts with its frames; remove one of the two")
        if self.extend is not None and self.audio is not None:
            raise FieldError("audio", "a job that extends a video goes on with its sound; remove one of the two")
        if self.continues_video and self.segments and self.segments[0].transition == "cut":
            raise FieldError("extend", "a job that extends a video cannot start with a cut")
        return self

    @model_validator(mode="after")
    def _auto_fits(self) -> Self:
        check_auto(self.segments, has_images=bool(self.images), has_audio=self.audio is not None)
        return self

    @model_validator(mode="after")
    def _leads_into_video(self) -> Self:
        check_before(self, self.segments, is_open=self.open)
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
        check_neighbours(self.segments, self.shared, continues=continues or self.continues_video)
        check_auto(self.segments, has_images=bool(self.images), has_audio=self.audio is not None)

    @property
    def first_shape(self) -> SegmentShape:
        """The shape of the first segment; without one, the job's."""
        return self.planned(self.segments[0]).shape if self.segments else self.shape

    @property
    def video_overlap(self) -> int:
        """How many frames a segment has in common with the video that the job extends."""
        return shared_frames(self.overlap) if self.before else self.first_shape.overlap

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
        return JobHead.model_validate(self.model_dump(exclude={"segments", "open", "approve", "images"}))


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
