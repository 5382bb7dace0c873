"""What the segments of a render are made from, and the note of it in the render's folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2.checkpoints.lora import stamp_of
from tasks.client.files import write_whole
from tasks.field_errors import shown
from tasks.settings import Settings
from tasks.spec.schema import JobSpec

NOTE = "render.json"
GPUS = Path("/proc/driver/nvidia/gpus")
PACKAGES = ("longtake", "torch", "diffusers")
SETTINGS = ("engine", "precision", "offload", "text_encoder", "compiler")


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


def inputs_of(spec: JobSpec, state: Mapping[str, Any] | None, settings: Settings) -> RenderInputs:
    """The inputs of a render of `spec` with these settings on this machine. Loads neither torch nor a model.

    A LoRA file counts as the same while its size and modification time are.
    """
    made_with: dict[str, Any] = {package: _version(package) for package in PACKAGES}
    made_with |= {f"LONGTAKE_{name.upper()}": getattr(settings, name) for name in SETTINGS}
    made_with |= {"the device": device_kind(settings.device)}
    loras = [*spec.loras, *([spec.stage2_lora] if spec.stage2_lora else [])]
    made_with |= {f"LoRA {shown(lora.path)}": stamp_of(lora.path) for lora in loras}
    made_with |= {"the state to continue": None if state is None else [short_hash(state)]}
    return RenderInputs(spec, state, json.loads(json.dumps(made_with)))


def device_kind(device: str, *, gpus: Path = GPUS, environ: Mapping[str, str] = os.environ) -> str:
    """What renders with LONGTAKE_DEVICE=`device` on this machine: the names of its GPUs, or the kind of its CPU."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    names = sorted({_gpu_name(file) for file in gpus.glob("*/information")})
    if device == "cpu" or visible in ("", "-1") or not names:
        return f"cpu, {platform.machine()}"
    if len(names) == 1:
        return names[0]
    return f"{' and '.join(names)}: {device}, CUDA_VISIBLE_DEVICES={visible or 'all'}"


def read_note(folder: Path) -> dict[str, Mapping[str, Any]]:
    """What each job in a render's folder was made with, by job id; empty without a readable note."""
    try:
        jobs = json.loads((folder / NOTE).read_bytes())["jobs"]
        return {str(job_id): dict(made_with) for job_id, made_with in jobs.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def write_note(folder: Path, film: Path | None, inputs: RenderInputs) -> None:
    """Add a job to the note in its folder.

    Raises:
        OutputError: it cannot be written.
    """
    jobs = {**read_note(folder), inputs.job_id: inputs.made_with}
    note = {"film": film and str(film.resolve()), "jobs": jobs}
    write_whole({folder / NOTE: (json.dumps(note, indent=2) + "\n").encode()}, mode=0o600)


def short_hash(value: Any) -> str:
    """A hash of JSON data, 16 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _gpu_name(information: Path) -> str:
    try:
        lines = information.read_text(errors="replace").splitlines()
    except OSError:
        return "a GPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model:")), "a GPU")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
