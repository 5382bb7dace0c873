"""The render class of a worker: what the bytes of its segments depend on, apart from the job and its model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from tasks.jobs.results import Claim
from tasks.jobs.workers import TEXT_LIMIT
from tasks.settings import Settings
from tasks.worker.gpu import gpu_in_use
from tasks.worker.heartbeats.versions import version_of

PACKAGES = ("longtake", "torch", "diffusers")
SETTINGS = ("precision", "attention", "text_encoder", "offload", "compiler")
OF_MODEL = {"text_encoder"}
"""What `auto` means also depends on the model, so that a worker has one class for all models only by its setting."""


def render_class_of(settings: Settings, made_with: Mapping[str, str]) -> str:
    """The render class of this process, once it has loaded a model: one line for people, compared as a whole.

    made_with: what the engine says of itself; it replaces settings such as `auto`. Tiling follows from `offload`.
    """
    gpu = gpu_in_use(settings.device)
    known = {name: str(getattr(settings, name)) for name in SETTINGS}
    known |= {name: value for name, value in made_with.items() if name not in OF_MODEL}
    known |= {package: version_of(package) for package in PACKAGES}
    text = ", ".join([gpu.name if gpu else "cpu", *(f"{name} {value}" for name, value in known.items())])
    if len(text) > TEXT_LIMIT:  # heartbeats cut it
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return f"{text[: TEXT_LIMIT - len(digest) - 1]} {digest}"
    return text


def class_warnings(claim: Claim, render_class: str) -> list[str]:
    """A sentence if a unit is rendered by a worker of another class than its own; it has waited, or there is none."""
    if not claim.render_class or not render_class or claim.render_class == render_class:
        return []
    return [f"rendered by a worker of another render class ({render_class}) than before ({claim.render_class})"]
