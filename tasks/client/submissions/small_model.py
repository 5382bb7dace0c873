"""Warns before a render of what the small model `shapes` was not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ltx2.checkpoints.full_weights import split_full
from ltx2.checkpoints.resolve import local_name
from ltx2.checkpoints.shapes_prompts import HELP, is_small_model, is_understood, size_help
from tasks.settings import Settings
from tasks.spec.schema import JobSpec


def size_warnings(spec: JobSpec, settings: Settings) -> Iterator[str]:
    """One warning if `spec` asks `shapes` for another size than that of its training."""
    if _is_small(spec, settings):
        lengths = {segment.frames or spec.frames for segment in spec.segments} or {spec.frames}
        if found := size_help(spec.width, spec.height, lengths):
            yield found


def prompt_warnings(spec: JobSpec, settings: Settings) -> Iterator[str]:
    """One warning, with the first such segment, if `shapes` does not understand a prompt; a render has it, too."""
    if _is_small(spec, settings):
        others = (index for index, segment in enumerate(spec.segments) if not is_understood(segment.prompt))
        if (first := next(others, None)) is not None:
            yield f"segment {first}: {HELP}"


def _is_small(spec: JobSpec, settings: Settings) -> bool:
    name, _ = split_full(spec.model or settings.model)
    return not settings.has_custom_engine and is_small_model(Path(local_name(name)))
