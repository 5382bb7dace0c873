"""What a worker process holds: its job store, its blobs, its engine. Opened on first use, after the fork."""

from __future__ import annotations

import gc
import importlib
import os
import socket
from collections.abc import Iterable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from blobstore import ManagedBlobStore, open_blob_store
from ltx2.checkpoint import SMALL_MODELS
from ltx2.lora import Lora
from ltx2.segment import SegmentRequest
from tasks.beside import Beside
from tasks.broker import make_app
from tasks.config import Settings, warm_request
from tasks.connection import connect, retries
from tasks.errors import ConfigError, SpecError
from tasks.handoff import OwnStates
from tasks.jobs import JobStore
from tasks.publish import Publisher
from tasks.spec import LoraSpec

if TYPE_CHECKING:
    from ltx2 import LTX2ContinuationState
    from ltx2.segment import OnState, OnStep, SegmentOutput


class SegmentEngine(Protocol):
    """What `LONGTAKE_ENGINE` names: see `ltx2.engine.Engine`, whose `load` it shares."""

    audio_rate: int

    def run(
        self,
        request: SegmentRequest,
        state: LTX2ContinuationState | None = None,
        *,
        on_step: OnStep | None = None,
        next_prompt: str | None = None,
        on_state: OnState | None = None,
    ) -> SegmentOutput:
        """Render one segment; the prompt of the next one may be encoded meanwhile.

        An engine that knows the new state and the latents before it is done gives them to `on_state`, so that they are
        stored meanwhile. The state's arrays are its own, not parts of larger ones, and stay as they are.
        """
        ...

    def decode(self, video_latents: Any, audio_latents: Any) -> tuple[Any, Any]:
        """Frames and sound of stored latents."""
        ...

    def warm_up(self, request: SegmentRequest) -> None:
        """Compile for segments like `request`."""
        ...


class Runtime:
    """One process' connections and engine."""

    def __init__(self, settings: Settings, *, patient: bool) -> None:
        self.settings = settings
        self._patient = patient
        self.worker = f"{socket.gethostname()}:{os.getpid()}"
        self._loaded: tuple[tuple[str, tuple[Lora, ...]], SegmentEngine] | None = None

    @cached_property
    def jobs(self) -> JobStore:
        """The job records."""
        return JobStore(connect(self.settings.redis_url, patient=self._patient), self.settings, patient=self._patient)

    @cached_property
    def blobs(self) -> ManagedBlobStore:
        """The blob store."""
        return open_blob_store(
            self.settings.blobs, ttl_s=self.settings.blob_grace_s, retries=retries(patient=self._patient)
        )

    @cached_property
    def publisher(self) -> Publisher:
        """Sends messages."""
        return Publisher(make_app(self.settings, results=False), self.jobs)

    @cached_property
    def states(self) -> OwnStates:
        """The newest states that this process has made."""
        return OwnStates()

    @cached_property
    def beside(self) -> Beside:
        """Does what need not be waited for."""
        return Beside()

    def keep(self, job_id: str, data: bytes, mime: str) -> str:
        """Store `data` as long as the job's record lives; returns the blob id."""
        blob_id = self.blobs.put(data, mime=mime, owner=job_id)
        self.blobs.pin([blob_id], job_id)
        return blob_id

    def decoder(self, model: str) -> SegmentEngine:
        """The engine of `model` with whatever LoRAs it has, which decoding does not need; see `engine`."""
        if self._loaded and self._loaded[0][0] == model:
            return self._loaded[1]
        return self.engine(model)

    def engine(self, model: str, loras: Iterable[LoraSpec] = ()) -> SegmentEngine:
        """The engine that renders with `model` and `loras`; one is kept, another model or other LoRAs replace it.

        Raises:
            SpecError: `model` or a LoRA is in a folder that specs must not name.
        """
        wanted = (model, tuple(Lora(lora.path, lora.weight) for lora in loras))
        check_model_folders(model, wanted[1], self.settings)
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None
            gc.collect()  # free the old one before the new one is loaded: its parts refer to each other
            module, _, name = self.settings.engine.partition(":")
            try:
                load = getattr(importlib.import_module(module), name).load
            except (ImportError, AttributeError) as error:
                raise ConfigError(f"LONGTAKE_ENGINE={self.settings.engine}: {error}") from error
            settings = self.settings
            engine = load(
                model,
                loras=wanted[1],
                device=settings.device,
                precision=settings.precision,
                offload=settings.offload,
                compiler=settings.compiler,
            )
            self._loaded = (wanted, engine)
        return self._loaded[1]

    def warm_up(self) -> None:
        """Load the default model, and compile for the segments of LONGTAKE_WARM."""
        engine = self.engine(self.settings.model)
        if self.settings.warm:
            engine.warm_up(warm_request(self.settings.warm))


def check_model_folders(model: str, loras: Iterable[LoraSpec | Lora], settings: Settings) -> None:
    """Refuse models and LoRAs that lie, links followed, outside LONGTAKE_MODEL_FOLDERS; LONGTAKE_MODEL itself may.

    Raises:
        SpecError: names the field and the setting.
    """
    ours = _real(os.path.expanduser(settings.model))
    if model not in (settings.model, *SMALL_MODELS) and _real(os.path.expanduser(model)) != ours:
        _check_place("model", model, settings)
    for index, lora in enumerate(loras):
        _check_place(f"loras.{index}.path", lora.path, settings)


def _check_place(field: str, named: str, settings: Settings) -> None:
    if settings.model_folders is None:
        return
    path = os.path.expanduser(named)
    if not os.path.exists(path) and not named.startswith(("/", ".", "~")):
        return  # a hub id
    allowed = settings.model_folders.split(os.pathsep)
    if not any(_real(path).is_relative_to(_real(place)) for place in allowed):
        raise SpecError(f"{field}: {named!r:.200} is not in a folder that LONGTAKE_MODEL_FOLDERS allows")


def _real(folder: str) -> Path:
    return Path(os.path.realpath(folder.replace("\0", "")))


@lru_cache(maxsize=1)
def _runtime_of(pid: int) -> Runtime:
    return Runtime(Settings.from_env(), patient=True)


def runtime() -> Runtime:
    """This process' runtime; a forked child gets its own."""
    return _runtime_of(os.getpid())
