"""The engine that renders segments: the interface of `LONGTAKE_ENGINE`, and the slot that holds one."""

from __future__ import annotations

import gc
import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from ltx2.checkpoints.full_weights import split_full
from ltx2.checkpoints.loras.lora import Lora, stamp_of
from ltx2.errors import DeviceError, HubUnreachableError, RankError
from ltx2.request import SegmentRequest
from tasks.errors import ConfigError, HostFaultError
from tasks.settings import Settings, warm_images, warm_request
from tasks.spec.head import LoraSpec
from tasks.spec.model_policy import check_model_folders
from tasks.worker.render_class import render_class_of

if TYPE_CHECKING:
    from ltx2 import LTX2ContinuationState
    from ltx2.group.leader import RankGroup
    from ltx2.request import Decoding, OnState, OnStep, SegmentOutput


class SegmentEngine(Protocol):
    """What `LONGTAKE_ENGINE` names: see `ltx2.engine.Engine`, whose `load` it shares.

    With several GPUs, each process has one, whose `load` got `ranks`, and every call is made on all of them.
    """

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

        An engine that knows the new state and the latents before it is done passes them to `on_state`, so that they
        are stored early. The state owns its arrays: they are not views of larger ones, and do not change afterwards.
        """
        ...

    def decode(self, video_latents: Any, audio_latents: Any, decoding: Decoding | None = None) -> tuple[Any, Any]:
        """Frames and sound of stored latents. decoding: that of the segment's output."""
        ...

    def encode_sound(self, sound: Any, latents: int, *, lead: int = 0) -> Any:
        """Audio latents of sound `[samples, 2]` at 16 kHz, of which `lead` * 640 samples lead in.

        Only jobs with a given sound, or that extend a video, need it.
        """
        ...

    def duration(self, prompt: str) -> float:
        """Seconds of the shot that `prompt` describes. Only segments with `frames: auto` need it.

        Raises:
            RequestError: the model has no duration head.
        """
        ...

    def set_loras(self, loras: Sequence[Lora]) -> bool:
        """Change to other LoRAs, as if loaded with them; False if only loading the model again can do it."""
        ...

    def warm_up(self, request: SegmentRequest, *, images: Collection[int] = ()) -> None:
        """Compile for segments like `request`, and for those with so many placed images."""
        ...


class EngineSlot:
    """Holds one engine. Asking for other LoRAs changes it; asking for another model frees it and loads a new one.

    With several GPUs, this process is rank 0 and starts the others with the first model. on_stuck: called in a thread,
    with the reason, if this process waits for a rank that is gone, and cannot be woken. render_class: of this process,
    see `render_class_of`; '' until a model was loaded. ranks: how many processes render together.
    """

    def __init__(self, settings: Settings, *, on_stuck: Callable[[str], None] = lambda _: None) -> None:
        self._settings = settings
        self._on_stuck = on_stuck
        self._group: RankGroup | None = None
        self.render_class = ""
        self.ranks = 1
        self._engine: SegmentEngine | None = None
        self._model: tuple[str, str | None] | None = None  # and its text encoder
        self._full_names: dict[str, str] = {}
        self._loras: tuple[tuple[Lora, object], ...] | None = None  # None: unknown, after a failed change

    def engine(
        self,
        model: str,
        loras: Iterable[LoraSpec] = (),
        more: Mapping[str, str] = MappingProxyType({}),
        *,
        text_encoder: str | None = None,
        distilled: bool | None = None,
    ) -> SegmentEngine:
        """The engine that renders with `model` and `loras`, in this order. A LoRA file that was replaced is read again.

        more: what else the spec names, by field, see `JobHead.more_files`; the engine finds it in its requests.
        text_encoder: of a model in files that does not have its own.
        distilled: if it is False, the model's other weights are used, if it has any, see `full_weights`.

        Raises:
            SpecError: `model`, a LoRA, the text encoder or one of `more` lies in a folder that specs must not name.
            HostFaultError: the default model, without LoRAs, cannot be loaded; this host lacks the device; or
            LONGTAKE_ENGINE is none that it can use.
            HubUnreachableError: the model or a LoRA cannot be fetched now.
            RankError: with several GPUs: a rank died or hangs.
            DeviceError: another model than the default cannot be shared by so many GPUs.
        """
        wanted = tuple(Lora(lora.path, lora.weight) for lora in loras)
        more = {**more, "text_encoder": text_encoder} if text_encoder else more
        check_model_folders(model, wanted, self._settings, more)
        if distilled is False:
            model = self._with_full_weights(model)
        named = (model, text_encoder)
        stamped = tuple((lora, stamp_of(lora.path)) for lora in wanted)
        if self._engine is not None and (self._model, self._loras) == (named, stamped):
            return self._engine
        self._loras = None
        try:
            if self._engine is None or self._model != named or not self._engine.set_loras(wanted):
                self._model = self._engine = None
                gc.collect()  # the old engine's parts refer to each other; free them before the new one is loaded
                self._engine = self._load(model, text_encoder, wanted)
        except DeviceError as error:
            if error.setting == "gpus" and named != (self._settings.model, None):
                raise  # this model cannot be shared by so many; others can
            raise HostFaultError(f"LONGTAKE_{error.setting.upper()}: {error}") from error
        except ConfigError as error:
            raise HostFaultError(str(error)) from error
        except (HubUnreachableError, RankError):
            raise  # an outage, or a fault of this process, whichever model it is
        except Exception as error:
            if (named, wanted) != ((self._settings.model, None), ()):
                raise
            raise HostFaultError(f"model {model} cannot be loaded: {type(error).__name__}: {error}") from error
        self._model, self._loras = named, stamped
        self.render_class = render_class_of(self._settings, getattr(self._engine, "made_with", {}))
        return self._engine

    def decoder(self, model: str, *, text_encoder: str | None = None) -> SegmentEngine:
        """An engine that decodes latents of `model`. Decoding does not depend on LoRAs, so a loaded engine serves."""
        loaded, encoder = self._model or ("", None)
        if self._engine is not None and (split_full(loaded)[0], encoder) == (split_full(model)[0], text_encoder):
            return self._engine
        return self.engine(model, text_encoder=text_encoder)

    def warm_up(self) -> None:
        """Load the default model, and compile for the segments of LONGTAKE_WARM."""
        engine = self.engine(self._settings.model)
        if warm := self._settings.warm:
            more: dict[str, Any] = {"images": images} if (images := warm_images(warm)) else {}
            engine.warm_up(warm_request(warm), **more)

    @property
    def lost_rank(self) -> bool:
        """Whether a process that renders together with this one is gone."""
        return self._group is not None and not self._group.works

    def device_works(self) -> bool:
        """Whether this process can go on rendering: after a CUDA error, no call of the process to the device works."""
        if self.lost_rank:
            return False
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized():
            return True
        from ltx2.model.weights.placement import device_works

        return device_works(self._settings.device)

    def _with_full_weights(self, model: str) -> str:
        from ltx2.checkpoints.hub.fetching import full_name  # slow to import

        if model not in self._full_names:  # a repository is asked once
            self._full_names[model] = full_name(model, self._settings.home / "models")
        return self._full_names[model]

    def _load(self, model: str, text_encoder: str | None, loras: tuple[Lora, ...]) -> SegmentEngine:
        settings = self._settings
        module, _, name = settings.engine.partition(":")
        try:
            kind = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"LONGTAKE_ENGINE={settings.engine}: {error}") from error
        given: dict[str, Any] = {
            "loras": loras,
            "precision": settings.precision,
            "offload": settings.offload,
            "text_encoder": settings.text_encoder,
            "compiler": settings.compiler,
            **({} if text_encoder is None else {"encoder": text_encoder}),  # for engines that take none
            **({} if settings.attention == "auto" else {"attention": settings.attention}),
        }
        if self._starts_ranks(kind):
            assert self._group is not None
            return self._group.load(settings.engine, model, **given)
        engine: SegmentEngine = kind.load(model, device=settings.device, **given)
        return engine

    def _starts_ranks(self, kind: Any) -> bool:
        """Start the other ranks once, if LONGTAKE_GPUS asks for some; whether this process has others.

        Raises:
            ConfigError: the engine `kind` cannot render with others.
        """
        settings = self._settings
        if settings.gpus != "1" and self._group is None:
            from ltx2.group.leader import RankGroup  # torch is slow to import
            from ltx2.group.rendezvous import rank_count

            self.ranks = rank_count(settings.gpus, settings.device)
            if self.ranks > 1:
                if not _takes_ranks(kind.load):
                    raise ConfigError(
                        f"LONGTAKE_GPUS is {settings.gpus}, but the engine {settings.engine} cannot share a segment: "
                        "its `load` has no argument `ranks`"
                    )
                self._group = RankGroup(
                    self.ranks, settings.device, timeout_s=settings.rank_timeout_s, on_stuck=self._on_stuck
                )
        return self._group is not None


def _takes_ranks(load: Callable[..., Any]) -> bool:
    parameters = inspect.signature(load).parameters.values()
    return any(one.name == "ranks" or one.kind is one.VAR_KEYWORD for one in parameters)
