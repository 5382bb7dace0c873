"""The images of a spec, and its other inputs: where they are named, and which frame of which segment shows an image."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ltx2.request import MOST_IMAGES
from ltx2.timeline import exact, exact_seconds
from tasks.field_errors import FieldError
from tasks.spec.before import shown_by_video
from tasks.spec.head import INPUT_FIELDS
from tasks.spec.places import Location
from tasks.spec.schema import JobSpec
from tasks.spec.segments import SegmentImage, SegmentSpec


@dataclass(frozen=True, slots=True)
class _Span:
    """The new frames of a segment in its film."""

    first: int
    count: int


def image_paths(spec: JobSpec) -> dict[Location, str]:
    """Every image of a spec by the field that names it."""
    found: dict[Location, str] = {} if spec.image is None else {("image",): spec.image}
    found |= {("images", number, "path"): image.path for number, image in enumerate(spec.images)}
    for index, segment in enumerate(spec.segments):
        found |= {("segments", index, *field): path for field, path in _paths_of(segment)}
    return found


def input_paths(spec: JobSpec) -> dict[Location, str]:
    """Every file that a spec names besides its models, by the field that names it: images, a video, sound."""
    fields = {(field,): path for field in INPUT_FIELDS if (path := getattr(spec, field)) is not None}
    return image_paths(spec) | fields


def with_paths(spec: JobSpec, paths: Mapping[str, str]) -> JobSpec:
    """The spec with other paths, or blob ids, of all its images. paths: the new ones by the old ones."""
    segments = [_with_paths(segment, paths) if any(_paths_of(segment)) else segment for segment in spec.segments]
    changed: dict[str, object] = {"segments": segments}  # a field that was not given stays so
    if spec.images:
        changed["images"] = tuple(image.model_copy(update={"path": paths[image.path]}) for image in spec.images)
    if spec.image is not None:
        changed["image"] = paths[spec.image]
    return spec.model_copy(update=changed)


def placed(spec: JobSpec, *, continues: bool, video_frames: int = 0, kept: int = 0) -> JobSpec:
    """The spec with all images but its start image in the `images` of their segments.

    An image at a time is shown by the frame that is on screen then, the first that a dissolve blends included. It is
    never in what a segment repeats. continues: the job continues a state, so its first segment repeats frames.
    video_frames: how many frames the film shows of a video that the job extends, those that are repeated included.
    kept: so many leading segments stay as they are, and what is placed in them already.

    Raises:
        FieldError: an image after the end, in the video or in a segment that is kept, which does not show it; two at
        one frame, or too many in one segment.
    """
    if not spec.images and not any(any(_paths_of(segment)) for segment in spec.segments):
        return spec
    film = _FilmFrames(spec, continues=continues, start=video_frames)
    for index, segment in enumerate(spec.segments):
        for field, path in _paths_of(segment):
            film.put(("segments", index, *field), index, film.frame_of(index, field), path)
    for number, image in enumerate(spec.images):
        index, frame = film.at_time(number, image.at)
        there = film.images[index].get(frame)
        if not image.strength or (index < kept and there == image.path):
            continue
        if index < kept:
            raise FieldError(
                ("images", number, "at"),
                f"{image.at:g} s is frame {frame} of segment {index}, which stays as it is; segment {kept} begins at "
                f"{film.seconds_before(kept):.3f} s",
            )
        film.put(("images", number, "at"), index, frame, image.path)
    segments = [_with_images(*pair) for pair in zip(spec.segments, film.images, strict=True)]
    return spec.model_copy(update={"images": (), "segments": segments})


class _FilmFrames:
    """The frames of a film, of which some show an image. images: of each segment, by the number of its new frame.

    start: the frames of a video before the first segment. An open job may have no segment yet.
    """

    def __init__(self, spec: JobSpec, *, continues: bool, start: int) -> None:
        self._spec = spec
        self._spans = _spans(spec, continues=continues, start=start)
        self._start = start
        self._end = self._spans[-1].first + self._spans[-1].count if self._spans else start
        self.images: list[dict[int, str]] = [{} for _ in spec.segments]

    def put(self, location: Location, index: int, frame: int, path: str) -> None:
        """Show an image, named at `location`, in a frame of segment `index`."""
        there, is_last = self.images[index], index == len(self._spans) - 1
        if is_last and frame >= self._spans[index].count - shown_by_video(self._spec):
            raise FieldError(location, f"frame {frame} of segment {index} shows the video into which it leads")
        if frame in there or (index == frame == 0 and self._spec.image is not None):
            raise FieldError(location, f"frame {frame} of segment {index} has another image already")
        if len(there) == MOST_IMAGES:
            raise FieldError(location, f"segment {index} would have more than {MOST_IMAGES} images")
        there[frame] = path

    def frame_of(self, index: int, field: Location) -> int:
        """The frame of segment `index` in which an image is shown that this field of it names."""
        segment, count = self._spec.segments[index], self._spans[index].count
        if field == ("image",):
            return 0
        if field == ("end_image",):
            return count - 1
        frame = (segment.images or ())[int(field[1])].frame
        if not frame < count:
            problem = f"{frame} is none of the {count} new frames of segment {index}, from 0"
            raise FieldError(("segments", index, *field[:-1], "frame"), problem)
        return frame

    def at_time(self, number: int, seconds: float) -> tuple[int, int]:
        """The segment, and the frame of it, that is on screen at a time of the film, that of image `number`."""
        frame = int(exact_seconds(seconds) * exact(self._spec.fps))
        index = bisect_right(self._spans, frame, key=lambda span: span.first) - 1
        if frame >= self._end:
            problem = f"{seconds:g} s is not in the film, which has {self._seconds(self._end):.3f} s"
            raise FieldError(("images", number, "at"), problem)
        if index < 0:
            first_s = self._seconds(self._start)
            problem = f"{seconds:g} s is in the video that the job extends, which has the film's first {first_s:.3f} s"
            raise FieldError(("images", number, "at"), problem)
        return index, frame - self._spans[index].first

    def seconds_before(self, index: int) -> float:
        """The time of the film at which segment `index` begins, which may be one more than there are."""
        return self._seconds(self._spans[index].first if index < len(self._spans) else self._end)

    def _seconds(self, frame: int) -> float:
        return float(frame / exact(self._spec.fps))


def _spans(spec: JobSpec, *, continues: bool, start: int) -> list[_Span]:
    spans: list[_Span] = []
    end = start
    for index, one in enumerate(map(spec.planned, spec.segments)):
        repeats = not one.cut and (index > 0 or continues or spec.continues_video)
        first = end - (one.dissolve if index else 0)
        spans.append(_Span(first, one.shape.frames - (one.shape.overlap if repeats else 0)))
        end = first + spans[-1].count
    return spans


def _paths_of(segment: SegmentSpec) -> Iterator[tuple[Location, str]]:
    """The images of a segment, by the field within it."""
    if segment.image is not None:
        yield ("image",), segment.image
    if segment.end_image is not None:
        yield ("end_image",), segment.end_image
    for number, image in enumerate(segment.images or ()):
        yield ("images", number, "path"), image.path


def _with_paths(segment: SegmentSpec, paths: Mapping[str, str]) -> SegmentSpec:
    named = {name: paths[path] for name in ("image", "end_image") if (path := getattr(segment, name)) is not None}
    images = segment.images and tuple(image.model_copy(update={"path": paths[image.path]}) for image in segment.images)
    return segment.model_copy(update={**named, "images": images})


def _with_images(segment: SegmentSpec, images: Mapping[int, str]) -> SegmentSpec:
    if not images:
        return segment
    in_order = tuple(SegmentImage(frame=frame, path=images[frame]) for frame in sorted(images))
    return segment.model_copy(update={"image": None, "end_image": None, "images": in_order})
