"""What a user writes: a job spec in YAML or JSON, checked before anything is queued."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ltx2.sampling import FEWEST_STEPS, MOST_STEPS, Sampling
from ltx2.timeline import DEFAULT_OVERLAP, SegmentShape, exact, segment_seed
from tasks.config import absolute
from tasks.errors import SpecError
from tasks.guidance import GuidanceSpec

MAX_SPEC_BYTES = 4 * 1024 * 1024
SPATIAL_COMPRESSION = 32
MAX_DEPTH = 8
MAX_SEGMENTS = 100_000
MAX_LORAS = 8
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
Where = tuple[str | int, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SegmentSpec(_Strict):
    """One segment: what it shows, and whether it continues the one before (`continue`) or starts anew (`cut`)."""

    prompt: str = Field(min_length=1, max_length=8000)
    seed: Seed | None = None
    transition: Literal["continue", "cut"] = "continue"


class LoraSpec(_Strict):
    """A LoRA that is fused into the model: where it is, and by what its change is multiplied."""

    path: str = Field(min_length=1, max_length=500)
    weight: float = Field(1.0, ge=-2, le=2, allow_inf_nan=False)


class JobHead(_Strict):
    """What all segments of a job share. `frames` counts per segment; `overlap` of them repeat the tail before.

    `image`, with which the first segment begins, is a path in a spec and a blob id in a job's record.
    """

    title: str = Field("untitled", min_length=1, max_length=120)
    model: str | None = Field(None, min_length=1, max_length=500)
    loras: tuple[LoraSpec, ...] = Field((), max_length=MAX_LORAS)
    width: int = Field(768, ge=32, le=4096, strict=True)
    height: int = Field(512, ge=32, le=4096, strict=True)
    frames: int = Field(121, ge=9, le=1025, strict=True)
    fps: float = Field(24, ge=1, le=120, allow_inf_nan=False)
    overlap: int = Field(DEFAULT_OVERLAP, ge=1, strict=True)
    seed: Seed = 0
    stages: int = Field(1, ge=1, le=2, strict=True)
    steps: int | None = Field(None, ge=FEWEST_STEPS, le=MOST_STEPS, strict=True)
    negative_prompt: str | None = Field(None, max_length=8000)
    guidance: GuidanceSpec = GuidanceSpec()
    image: str | None = Field(None, min_length=1, max_length=4096)

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
        low = (frames - 1) // 8 * 8 + 1
        if frames != low:
            raise ValueError(f"{frames} is not of the form 8k+1; the nearest are {low} and {low + 8}")
        return frames

    @field_validator("stages")
    @classmethod
    def _halves_fit(cls, stages: int, info: ValidationInfo) -> int:
        step = SPATIAL_COMPRESSION * stages
        for name in ("width", "height"):
            size = info.data.get(name, 0)
            if size % step:
                near = " and ".join(str(low) for low in (size // step * step, size // step * step + step) if low)
                raise ValueError(f"{stages} need a {name} that is a multiple of {step}, not {size}; near are {near}")
        return stages

    @field_validator("title")
    @classmethod
    def _one_line(cls, title: str) -> str:
        if not title.isprintable():
            raise ValueError("must be one line of printable characters")
        return title

    @model_validator(mode="after")
    def _overlap_fits(self) -> Self:
        if self.overlap >= self.frames:
            raise ValueError(f"overlap {self.overlap} must be smaller than frames {self.frames}")
        return self

    @property
    def shape(self) -> SegmentShape:
        """The shape every segment of the job shares; 23.976 frames per second mean exactly 24000/1001."""
        return SegmentShape(frames=self.frames, fps=exact(self.fps), overlap=self.overlap)

    @property
    def sampling(self) -> Sampling:
        """How every segment of the job is sampled."""
        return Sampling(self.stages, self.steps, self.negative_prompt, **self.guidance.scales)

    def seed_of(self, index: int, segment: SegmentSpec) -> int:
        """The seed of `segment`: its own, or the job's plus its index."""
        return segment_seed(self.seed, index) if segment.seed is None else segment.seed


class JobSpec(JobHead):
    """One long video: what its segments share, and the segments."""

    segments: list[SegmentSpec] = Field(min_length=1, max_length=MAX_SEGMENTS)

    def with_absolute_paths(self) -> Self:
        """The spec with the model and the LoRAs that are files here under their absolute paths."""
        loras = tuple(lora.model_copy(update={"path": absolute(lora.path)}) for lora in self.loras)
        return self.model_copy(update={"model": self.model and absolute(self.model), "loras": loras})

    @property
    def head(self) -> JobHead:
        """The spec without its segments."""
        return JobHead.model_validate(self.model_dump(exclude={"segments"}))


def load_spec(path: Path) -> JobSpec:
    """The spec in the file `path`; an image that it names lies relative to that file.

    Raises:
        SpecError: one line per problem, each with file, line and field.
    """
    try:
        if path.stat().st_size > MAX_SPEC_BYTES:
            raise SpecError(f"{path}: larger than {MAX_SPEC_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text (byte {error.start})") from None
    spec = parse_spec(text, source=str(path))
    if spec.image is None:
        return spec
    return spec.model_copy(update={"image": os.path.join(path.parent.absolute(), os.path.expanduser(spec.image))})


def parse_spec(text: str, *, source: str = "spec") -> JobSpec:
    """The spec that `text` (YAML or JSON) holds; `source` names it in messages.

    Raises:
        SpecError: one line per problem, each with line and field.
    """
    lines: dict[Where, int] = {}
    try:
        _refuse_tricks(text, source)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = None if node is None else _plain(node, (), lines, source)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise SpecError(f"{source}{line}: not valid YAML: {problem}") from None
    if not isinstance(data, dict):
        raise SpecError(f"{source}: must be a mapping with at least `segments`, see docs/jobs.md")
    return check_spec(data, source=source, lines=lines)


def check_spec(data: Mapping[str, Any], *, source: str = "spec", lines: Mapping[Where, int] | None = None) -> JobSpec:
    """The spec that the mapping `data` describes.

    Raises:
        SpecError: one line per problem.
    """
    try:
        return JobSpec.model_validate(dict(data))
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            where: Where = problem["loc"]
            line = _line_of(where, lines or {})
            field = ".".join(str(part) for part in where)
            problems.append(f"{source}{line}: {field + ': ' if field else ''}{_say(problem)}")
        raise SpecError("\n".join(problems)) from None


def _say(problem: Any) -> str:
    kind, message = problem["type"], str(problem["msg"])
    if kind == "extra_forbidden":
        tables: dict[Any, type[BaseModel]] = {"segments": SegmentSpec, "loras": LoraSpec, "guidance": GuidanceSpec}
        table = tables.get(problem["loc"][0], JobSpec) if problem["loc"][1:] else JobSpec
        return f"unknown key; the keys are {', '.join(table.model_fields)}"
    if kind == "missing":
        return "missing"
    message = message.removeprefix("Value error, ").replace("Input should", "should")
    return message if kind == "value_error" else f"{message}, not {_shown(problem['input'])}"


def _shown(value: object) -> str:
    try:
        return f"{value!r:.80}"
    except ValueError:  # an integer of thousands of digits
        return f"such {type(value).__name__}"


def _line_of(where: Where, lines: Mapping[Where, int]) -> str:
    while where and where not in lines:
        where = where[:-1]
    return f":{lines[where]}" if where in lines else ""


def _refuse_tricks(text: str, source: str) -> None:
    """Aliases and deep nesting make a small file a large document; a spec needs neither."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise SpecError(f"{source}:{line}: aliases (*{event.anchor}) are not allowed")
        if getattr(event, "tag", None) is not None:
            raise SpecError(f"{source}:{line}: tags ({getattr(event, 'tag', '')}) are not allowed")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise SpecError(f"{source}:{line}: nested deeper than {MAX_DEPTH} levels")


def _plain(node: yaml.Node, where: Where, lines: dict[Where, int], source: str) -> Any:
    """`node` as plain data; notes the line of every field in `lines`."""
    lines.setdefault(where, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*where, i), lines, source) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return yaml.SafeLoader("").construct_object(node, deep=True)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        line = key_node.start_mark.line + 1
        if key in result:
            raise SpecError(f"{source}:{line}: {key}: given twice")
        lines[(*where, key)] = line
        result[key] = _plain(value_node, (*where, key), lines, source)
    return result
