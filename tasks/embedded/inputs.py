"""What the segments of a render are made from, and the note of it in the render's folder."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ltx2.checkpoints.full_weights import split_full
from ltx2.checkpoints.loras.lora import stamp_of
from ltx2.checkpoints.resolve import SMALL_MODELS
from ltx2.checkpoints.stamps import stamps_of
from tasks.client.display.pace import work_of
from tasks.client.files import write_whole
from tasks.field_errors import shown
from tasks.settings import Settings
from tasks.spec.schema import JobSpec
from tasks.worker.heartbeats.versions import version_of

NOTE = "render.json"
GPUS = Path("/proc/driver/nvidia/gpus")
PACKAGES = ("longtake", "torch", "diffusers")
SETTINGS = ("engine", "gpus", "precision", "offload", "text_encoder", "compiler", "attention")


@dataclass(frozen=True, slots=True)
class RenderInputs:
    """All that the segments of one render are made from. spec: with its model, absolute paths, and its image's blob id.

    state: the state to continue. made_with: what else determines their bytes, by the name that people know it by.
    """

    spec: JobSpec
    state: Mapping[str, Any] | None
    made_with: Mapping[str, Any]

    @property
    def job_id(self) -> str:
        """The id of the render's job: the same for the same inputs, so that it can resume."""
        return short_hash([self.spec.model_dump(mode="json"), self.state, self.made_with])

    @property
    def work(self) -> str:
        """A hash of all on which the time for a segment depends."""
        return short_hash([work_of(self.spec), self.made_with])


def inputs_of(spec: JobSpec, state: Mapping[str, Any] | None, settings: Settings) -> RenderInputs:
    """The inputs of a render of `spec` with these settings on this machine. Loads neither torch nor a model.

    Files of LoRAs and models count as the same while their sizes and modification times are. Models that longtake has
    or builds itself change with its version.
    """
    made_with: dict[str, Any] = {package: version_of(package) for package in PACKAGES}
    made_with |= {f"LONGTAKE_{name.upper()}": getattr(settings, name) for name in SETTINGS}
    made_with |= {"the device": device_kind(settings.device)}
    loras = [*spec.loras, *([spec.stage2_lora] if spec.stage2_lora else [])]
    made_with |= {f"LoRA {shown(lora.path)}": stamp_of(lora.path) for lora in loras}
    made_with |= {f"the {part}'s files": stamps for part, named in _parts(spec) if (stamps := _stamps(named))}
    made_with |= {"the state to continue": None if state is None else [short_hash(state)]}
    return RenderInputs(spec, state, json.loads(json.dumps(made_with)))


def _parts(spec: JobSpec) -> list[tuple[str, str | None]]:
    return [("model", spec.model), ("text encoder", spec.text_encoder), ("upsampler", spec.upsampler)]


def _stamps(named: str | None) -> list[str]:
    """A hash of the stamps of what a spec names, in a list; empty for what is not here, and for longtake's own."""
    stamps = None if named is None or split_full(named)[0] in SMALL_MODELS else stamps_of(named)
    return [] if stamps is None else [short_hash(stamps)]


def device_kind(device: str, *, gpus: Path = GPUS, environ: Mapping[str, str] = os.environ) -> str:
    """What renders with LONGTAKE_DEVICE=`device` on this machine: the names of its GPUs, or the kind of its CPU."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    names = sorted({_gpu_name(file) for file in gpus.glob("*/information")})
    if device == "cpu" or visible in ("", "-1") or not names:
        return f"cpu, {platform.machine()}"
    if len(names) == 1:
        return names[0]
    return f"{' and '.join(names)}: {device}, CUDA_VISIBLE_DEVICES={visible or 'all'}"


@dataclass(frozen=True, slots=True)
class Note:
    """What a render's folder is for. film: None for standard output. jobs: what each was made with, by its id.

    finished_at: when the film was written, in seconds since the epoch; None before. work, segment_s: what it was, see
    `RenderInputs.work`, and the median seconds in the engine for a segment.
    """

    film: str | None = None
    jobs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    finished_at: float | None = None
    work: str | None = None
    segment_s: float | None = None

    def write(self, folder: Path) -> None:
        """Write the note of `folder`.

        Raises:
            OutputError: it cannot be written.
        """
        write_whole({folder / NOTE: (json.dumps(asdict(self), indent=2) + "\n").encode()}, mode=0o600)


def read_note(folder: Path) -> Note:
    """The note of a render's folder; an empty one if there is none, or if it is damaged."""
    try:
        found = json.loads((folder / NOTE).read_bytes())
        film, jobs, finished_at = found["film"], found["jobs"], found.get("finished_at")
        made_with = {str(job_id): dict(values) for job_id, values in jobs.items()}
        segment_s = found.get("segment_s")
        return Note(
            film and str(film),
            made_with,
            None if finished_at is None else float(finished_at),
            found.get("work"),
            None if segment_s is None else float(segment_s),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return Note()


def short_hash(value: Any) -> str:
    """A hash of JSON data, 16 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _gpu_name(information: Path) -> str:
    try:
        lines = information.read_text(errors="replace").splitlines()
    except OSError:
        return "a GPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model:")), "a GPU")
