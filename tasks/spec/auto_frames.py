"""`frames: auto` in a spec: segments as long as a model finds in their prompts, and what cannot go with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ltx2.checkpoints.duration_head import lacks_head
from tasks.field_errors import FieldError
from tasks.spec.segments import AUTO, SegmentSpec


def with_auto_segments(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a spec whose `frames` is `auto`: that of each segment without one of its own."""
    fields = {name: value for name, value in data.items() if name != "frames"}
    if isinstance(segments := fields.get("segments"), list | tuple):
        fields["segments"] = [{"frames": AUTO, **one} if isinstance(one, dict) else one for one in segments]
    return fields


def check_auto(segments: Sequence[SegmentSpec], *, has_images: bool, has_audio: bool) -> None:
    """Refuse lengths that are decided later where the whole film must be known before. FieldError: names the field."""
    index = next((index for index, segment in enumerate(segments) if segment.auto_frames), None)
    if index is None or not (has_images or has_audio):
        return
    field, what = ("images", "which frame is shown at a time") if has_images else ("audio", "where it is in the sound")
    raise FieldError(field, f"segment {index} has frames: auto, so {what} is not known; give it a number of frames")


def check_head(segments: Sequence[SegmentSpec], model: str) -> None:
    """Refuse `frames: auto` for a `model` that is known to have no duration head. FieldError: names the segment."""
    index = next((index for index, segment in enumerate(segments) if segment.is_undecided), None)
    if index is not None and lacks_head(model):
        raise FieldError(
            ("segments", index, "frames"),
            f"auto needs a model with a duration head, such as Lightricks/LTX-2.5-Diffusers; {model} has none",
        )
