"""Reads the files that a spec names besides its models, and makes blobs of them: images, a video, sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blobstore import InMemoryBlobStore
from ltx2 import DEFAULT_INLINE_THRESHOLD_BYTES
from ltx2.media.sound_file import MIME
from tasks.client.inputs.start_image import IMAGE_MIME, read_images, with_image_ids
from tasks.client.inputs.track import read_track_of, track_warnings
from tasks.client.inputs.video import read_extension, stored_extension, with_source
from tasks.client.inputs.video_after import read_video_after, stored_video_after
from tasks.errors import SpecError
from tasks.jobs.records import Handoff
from tasks.spec.images import input_paths
from tasks.spec.input_files import open_input
from tasks.spec.places import MOST_PROBLEMS, Location
from tasks.spec.schema import JobSpec
from tasks.spec.segments import SegmentSpec


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of a spec. spec: with their blob ids instead of their paths, each image at its frame.

    pending: their blobs, in memory. start: the state that the job continues, if it extends a video. video_after: the
    video that it leads into. warnings: one sentence each.
    """

    spec: JobSpec
    pending: InMemoryBlobStore
    start: Handoff | None = None
    video_after: Handoff | None = None
    warnings: tuple[str, ...] = ()


def read_inputs(
    spec: JobSpec,
    *,
    continues: bool = False,
    with_video: bool = False,
    inline_threshold_bytes: int = DEFAULT_INLINE_THRESHOLD_BYTES,
    kept: Sequence[SegmentSpec] = (),
) -> Inputs:
    """Read the files that `spec` names; the same files give the same ids. Nothing is stored.

    continues: the job continues a state. with_video: a video that the film shows as a whole is encoded, too: it takes
    as long as the video, and is needed once. inline_threshold_bytes: of the start; the ids do not depend on it. kept:
    the first segments as a record has them, which count instead of those of `spec`.

    Raises:
        SpecError: as `check_files`, or a file is of another kind; names the field and the file. An image cannot be
            shown where the spec says.
    """
    pending, ids, video_frames = InMemoryBlobStore(), dict[str, str](), 0
    start = video_after = None
    spec = spec.model_copy(update={"segments": [*kept, *spec.segments[len(kept) :]]})
    for field in ("include_video", "before"):
        if getattr(spec, field) and spec.extend is None:
            raise SpecError(f"{spec.source.place(field)}: there is no video; name one in `extend`, or remove this")
    check_files(spec, kept=len(kept))
    images = read_images(spec, kept=len(kept))
    for png in images.values():
        pending.put(png, mime=IMAGE_MIME)
    if spec.extend is not None and spec.before:
        beginning = read_video_after(spec.extend, spec, field=spec.source.place("extend"))
        ids["extend"], video_after = stored_video_after(
            beginning, spec, pending, inline_threshold_bytes=inline_threshold_bytes
        )
        if spec.include_video and with_video:
            video_after = with_source(video_after, spec, pending)
    elif spec.extend is not None:
        extension = read_extension(spec.extend, spec, field=spec.source.place("extend"))
        stored = stored_extension(extension, spec, pending, inline_threshold_bytes=inline_threshold_bytes)
        ids["extend"], start, video_frames = stored.sound, stored.start, stored.start.first_frame
        if spec.include_video and with_video:
            start = with_source(start, spec, pending)
    track = read_track_of(spec)
    if track is not None:
        ids["audio"] = pending.put(track, mime=MIME)
    found = with_image_ids(spec, images, continues=continues, video_frames=video_frames, kept=len(kept))
    warnings = tuple(track_warnings(track, spec)) if track is not None else ()
    return Inputs(found.model_copy(update=ids), pending, start, video_after, warnings)


def check_files(spec: JobSpec, *, kept: int = 0) -> None:
    """Check that every file that `spec` names besides its models can be opened, before any is read.

    kept: the images of so many leading segments are stored already.

    Raises:
        SpecError: one line per file that cannot, MOST_PROBLEMS at most.
    """
    named: dict[str, Location] = {}
    for location, path in input_paths(spec).items():
        if location[0] != "segments" or int(location[1]) >= kept:
            named.setdefault(path, location)
    problems: list[tuple[Location, str]] = []
    for path, location in named.items():
        try:
            with open_input(path):
                pass
        except SpecError as error:
            problems.append((location, str(error)))
    if not problems:
        return
    numbers = spec.source.lines([location for location, _ in problems])
    in_order = [problem for _, problem in sorted(zip(numbers, problems, strict=True), key=lambda one: one[0])]
    first = in_order[:MOST_PROBLEMS]
    raise SpecError(spec.source.report(first, more=len(problems) - len(first)))


def with_input_ids(spec: JobSpec, *, continues: bool = False) -> JobSpec:
    """`spec` with the blob ids of its inputs instead of their paths, see `read_inputs`."""
    return read_inputs(spec, continues=continues).spec
