"""The engine: renders one segment from a prompt, a seed and the previous state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltx2.acceleration.cuda_graphs import Capture, CudaGraphs
from ltx2.acceleration.stored_weights import StoredWeights
from ltx2.checkpoints.full_weights import split_full
from ltx2.checkpoints.loras.lora import Lora
from ltx2.checkpoints.positions import problem_with_length
from ltx2.checkpoints.resolve import WEIGHTS, FileModel, HubModel, default_cache, resolve_model
from ltx2.checkpoints.shapes_prompts import HELP as SHAPES_HELP
from ltx2.checkpoints.shapes_prompts import is_small_model, is_understood
from ltx2.checkpoints.variant import Variant
from ltx2.errors import RequestError
from ltx2.model.codecs.host_copies import Checked, HostCopies, HostCopy
from ltx2.model.codecs.picture_decoder import PictureDecoder
from ltx2.model.codecs.sound_decoder import decode_sound
from ltx2.model.codecs.sound_encoder import SoundEncoder
from ltx2.model.denoising.conditioning import (
    Conditioning,
    check_channels,
    conditioning_of,
    placeholder_images,
    state_after,
)
from ltx2.model.denoising.denoiser import Denoiser
from ltx2.model.denoising.stage_loras import StageLoras
from ltx2.model.duration import DurationHead
from ltx2.model.finite import all_finite, naming_model
from ltx2.model.pipeline import LongtakePipeline
from ltx2.model.render_context import memory_errors, render_context
from ltx2.model.text.prompts import PromptEncoder, new_stream
from ltx2.model.text.text_encoder import TextEncoder
from ltx2.model.weights.loading import find_loras, load_pipeline, variant_of_pipeline
from ltx2.model.weights.lora_fusion import LoraFusion
from ltx2.model.weights.placement import PRECISIONS, computes_float8, device_of, precision_of
from ltx2.model.weights.stored_tensors import align
from ltx2.parallel.encoding import share_encoder
from ltx2.parallel.ranks import Ranks
from ltx2.preparation import EngineSettings, prepare
from ltx2.request import Decoding, OnState, OnStep, PinnedEnd, SegmentOutput, SegmentRequest
from ltx2.sampling import Decoder, Plan
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.timeline import first_timing, next_timing


class Engine:
    """A loaded LTX-2 model, which renders one segment at a time.

    source: the checkpoint of `pipeline`; without one, two stages are not possible. variant, text_encoder: default: the
    pipeline's. encode_ahead: see `PromptEncoder`. compiled: whether parts of the model are compiled, so that new shapes
    are warmed up first. fusion: the LoRAs in the pipeline's weights, if they can be changed. made_with: the settings
    that a segment's bytes may depend on. name, loras: of the model, for errors. ranks: the processes that render each
    segment together; all make the same calls, with callbacks that answer the same. graphs: decode sound as CUDA graphs.
    """

    def __init__(
        self,
        pipeline: LongtakePipeline,
        source: Path | HubModel | FileModel | None = None,
        *,
        variant: Variant | None = None,
        text_encoder: TextEncoder | None = None,
        encode_ahead: bool = True,
        compiled: bool = False,
        fusion: LoraFusion | None = None,
        made_with: Mapping[str, str] = MappingProxyType({}),
        name: str = "the model",
        loras: Sequence[Lora] = (),
        ranks: Ranks | None = None,
        graphs: bool = False,
    ) -> None:
        self.pipeline = pipeline
        self.variant = variant or variant_of_pipeline(pipeline)
        self.audio_rate = self.variant.audio_rate
        self.made_with = dict(made_with)
        self.prompts = PromptEncoder(pipeline, text_encoder, ahead=encode_ahead)
        self._loras = StageLoras(fusion, self.prompts)
        source, named = (None, source) if isinstance(source, FileModel) else (source, source)
        self._denoiser = Denoiser(pipeline, self.variant, self.prompts, self._loras, source)
        self._picture_decoder = PictureDecoder(pipeline, source, ranks)
        self._decode_sound: Callable[[Tensor], Checked] = partial(decode_sound, pipeline, self.audio_rate)
        if graphs:  # launching it would take longer, and keep this thread from the state
            weights = (*pipeline.audio_vae.parameters(), *pipeline.vocoder.parameters())
            self._decode_sound = CudaGraphs(self._decode_sound, weights, Capture(optional=True))
        if ranks is not None:
            share_encoder(pipeline.vae, ranks)
        self._compiled = compiled
        self._is_small_model = isinstance(source, Path) and is_small_model(source)
        self._name, self._named_loras = name, tuple(loras)
        self._warm: set[tuple[object, ...]] = set()
        self._stream = new_stream(self._device, priority=-1)  # goes before the encoding of the next prompt
        self._copies = HostCopies(self._device, self._stream)
        self.duration = DurationHead(named, self.prompts, self._loras, self._stream)
        pipeline.set_progress_bar_config(disable=True)

    @classmethod
    def load(
        cls,
        model: str,
        *,
        loras: Sequence[Lora] = (),
        device: str = "auto",
        precision: str = "auto",
        offload: str = "none",
        text_encoder: str = "auto",
        compiler: str = "auto",
        attention: str = "auto",
        encoder: str | None = None,
        ranks: Ranks | None = None,
    ) -> Engine:
        """Load `model` (see `resolve_model`), fuse `loras` (see `resolve_lora`), and place it on a device.

        device, precision, offload: see `ltx2.model.weights.placement`. text_encoder: see `text_encoder_mode`. compiler:
        see `backend_of` in `ltx2.acceleration.compile`. attention: see `attention_of`. encoder: the text encoder of a
        model in files. Weights that its files have in float8 stay so where the device computes in it and the precision
        is auto or fp8. ranks: see above.

        Raises:
            CheckpointError: the model or a LoRA is missing, incomplete, unsupported, or not finite.
            EngineMemoryError: it does not fit.
            DeviceError: this host does not have this device, precision or attention, the model's heads do not divide
                by the number of ranks, or settings mean something else on other ranks. ValueError: an invalid setting.
        """
        target = device_of(device)
        settings = EngineSettings(target, precision_of(precision, target), offload, text_encoder, compiler, attention)
        found = find_loras(loras)
        source = resolve_model(model, default_cache(), encoder)
        keep = StoredWeights(float8=settings.precision == "fp8" or (precision == "auto" and computes_float8(target)))
        pipeline = load_pipeline(source, PRECISIONS[settings.precision], keep, full=split_full(model)[1])
        if target.type == "cpu":
            for component in (pipeline.components[name] for name in WEIGHTS):
                align(component)
        fusion = LoraFusion(pipeline, target)
        with memory_errors(f"{model} on {target}"):
            if found and offload == "none":  # alone first: large LoRAs do not fit together with the text encoder
                pipeline.transformer.to(target)
            fusion.fuse(found)
            return cls.ready(pipeline, settings, source=source, fusion=fusion, name=model, loras=loras, ranks=ranks)

    @classmethod
    def ready(
        cls,
        pipeline: LongtakePipeline,
        settings: EngineSettings,
        *,
        source: Path | HubModel | FileModel | None = None,
        fusion: LoraFusion | None = None,
        name: str = "the model",
        loras: Sequence[Lora] = (),
        ranks: Ranks | None = None,
    ) -> Self:
        """An engine with a loaded `pipeline`, which is accelerated and placed as `settings` say. Raises as `load`."""
        prepared = prepare(pipeline, settings, name=name, fusion=fusion, ranks=ranks)
        return cls(
            pipeline,
            source,
            variant=prepared.variant,
            text_encoder=prepared.text_encoder,
            encode_ahead=prepared.encode_ahead,
            compiled=settings.backend is not None,
            fusion=fusion if settings.offload != "sequential" else None,  # which keeps copies of weights
            made_with=prepared.made_with,
            name=name,
            loras=loras,
            ranks=ranks,
            graphs=settings.graphs,
        )

    def set_loras(self, loras: Sequence[Lora]) -> bool:
        """Change to `loras`; every later segment has the bytes that a newly loaded engine gives with them.

        Only weights that the old or the new LoRAs touch are read from the checkpoint again. Returns False if that is
        not possible, and the model must be loaded again: with sequential offload, or if its files have changed. After
        an error, segments must not be rendered before a later call succeeds.

        Raises:
            CheckpointError, EngineMemoryError: as `load`.
        """
        with render_context("changing LoRAs", self._stream):
            changed = self._loras.set_job(loras)
        if changed:
            self._named_loras = tuple(loras)
        return changed

    def warm_up(self, request: SegmentRequest, *, images: Collection[int] = ()) -> None:
        """Compile all that a job of segments like `request` needs, if it is not compiled.

        That is two shapes, for a first segment (or one after a cut) and for a continuation, and that of `request` if it
        continues a segment of another length. One step of each stage is run; all sound is decoded, and one picture.
        Each number of placed images is a shape of its own: that of `request` is compiled for its timing, and those of
        `images` for both.
        """
        plan = self._denoiser.plan(request.sampling)
        first = first_timing(request.timing.shape)
        both = (first, next_timing(first))
        needed = [(timing, count) for count in (0, *images) for timing in both]
        needed.append((request.timing, len(request.images)))
        for timing, count in needed:
            size = (request.width, request.height, timing.shape.frames, timing.audio_latents, count)
            shape = (*size, plan.stages, str(plan.guidance), plan.stage2_lora is None, request.sampling.decoder)
            if shape not in self._warm:
                self.prompts.finish()  # nothing may be encoded while something is compiled
                like = replace(request, timing=timing, image=None, end=None, images=(), sound=None)
                conditioning = Conditioning(images=placeholder_images(count, request.height, request.width))
                with render_context("warming up", self._stream):
                    latents, sound = self._denoiser.denoise(like, plan, conditioning, first_steps=True)
                    self._decode_sound(sound)
                    decoding = self._picture_decoder.decoding_of(like)
                    # the pictures of all have the same shape, and the diffusion decoder is not compiled
                    if timing is first and not count and decoding.decoder == Decoder.CONVOLUTIONAL:
                        self._pictures(latents, decoding)
                self._warm.add(shape)

    def run(
        self,
        request: SegmentRequest,
        state: LTX2ContinuationState | None = None,
        *,
        on_step: OnStep | None = None,
        next_prompt: str | None = None,
        on_state: OnState | None = None,
    ) -> SegmentOutput:
        """Render one segment. The same request and state give the same bytes on the same kind of device.

        state: a continuation is conditioned on it; other segments only pass on its metadata. on_step: called as
        `on_step(step, steps)` after each denoising step, counted from 1 over all stages; if it returns False, the
        segment ends with SegmentCancelledError, and the engine can render the next. next_prompt: the prompt of the next
        segment, encoded in the background after the first step. on_state: called with the new state and the latents
        while a GPU still decodes the sound; if it raises, the segment ends.

        Raises:
            RequestError: this model cannot render the request.
            UnsupportedStateError: this engine cannot render the state.
            SegmentCancelledError: `on_step` returned False.
            NotFiniteError: the model gave NaN or infinity; `on_state` was not called with it.
            EngineMemoryError: the device is out of memory.
        """
        shape = request.timing.shape
        if problem := problem_with_length(shape.frames, shape.fps, self.variant.positions_s):
            raise RequestError(f"frames: {problem}")
        plan = self._denoiser.plan(request.sampling)
        decoding = self._picture_decoder.decoding_of(request)
        conditioning = self._conditioning(request, state, plan)
        if self._compiled:
            self.warm_up(request)
        metadata = state.metadata if state else {}
        doing = f"segment {request.timing.index}"
        more = filter(None, [request.sampling.stage2_lora])
        with self._naming_model(doing, *more), render_context(doing, self._stream):
            try:
                latents = self._denoiser.denoise(request, plan, conditioning, self._with_prepare(next_prompt, on_step))
                checked = [
                    Checked(part, name, all_finite(part))
                    for part, name in zip(latents, ("video latents", "sound latents"), strict=True)
                ]
                copies = [self._copies.start(part) for part in checked]
                pictures, sound = self._start_decoding(*latents, decoding)
                video_latents, audio_latents = (copy() for copy in copies)
                frames = pictures().numpy()
                following = state_after(request.timing, frames, audio_latents, self.audio_rate, metadata)
                if on_state is not None:
                    on_state(following, video_latents, audio_latents)
                return SegmentOutput(
                    frames=frames,
                    sound=sound().numpy(),
                    audio_rate=self.audio_rate,
                    video_latents=video_latents,
                    audio_latents=audio_latents,
                    state=following,
                    made_with=self.made_with,
                    decoding=decoding,
                    warnings=self._warnings(request, plan),
                )
            finally:
                self.prompts.end_segment()

    def decode(
        self, video_latents: Tensor, audio_latents: Tensor, decoding: Decoding | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Frames and sound of a `SegmentOutput`'s latents: with its `decoding`, the same bytes as in that output.

        None: by the convolutional decoder, without noise.
        """
        with self._naming_model("decoding"), render_context("decoding", self._stream):
            on_device = (video_latents.to(self._device), audio_latents.to(self._device))
            pictures, sound = self._start_decoding(*on_device, decoding or Decoding())
            return pictures().numpy(), sound().numpy()

    def encode_sound(self, sound: NDArray[np.float32], latents: int, *, lead: int = 0) -> Tensor:
        """Audio latents `[1, 8, latents, 16]` of sound `[samples, 2]` at 16 kHz, normalised: see `SoundEncoder`."""
        with self._naming_model("encoding sound"), render_context("encoding sound", self._stream):
            return self._copies.start(SoundEncoder(self.pipeline)(sound, latents, lead, self._device))()

    def _start_decoding(
        self, video_latents: Tensor, audio_latents: Tensor, decoding: Decoding
    ) -> tuple[HostCopy, HostCopy]:
        """Start to decode latents on the device to frames and sound, without waiting for the GPU."""
        pictures = self._copies.start(self._pictures(video_latents, decoding))
        return pictures, self._copies.start(self._decode_sound(audio_latents))

    def _warnings(self, request: SegmentRequest, plan: Plan) -> tuple[str, ...]:
        """What is wrong with the prompts of a segment that was rendered."""
        warnings = [self.prompts.encode(request.prompt).warning]
        if plan.is_guided and plan.negative_prompt is not None:
            negative = self.prompts.encode(plan.negative_prompt).warning
            warnings.append(negative and negative.replace("the prompt", "the negative prompt"))
        if self._is_small_model and not is_understood(request.prompt):
            warnings.append(SHAPES_HELP)
        return tuple(warning for warning in warnings if warning)

    def _with_prepare(self, prompt: str | None, on_step: OnStep | None) -> OnStep:
        """An `on_step` that also starts to encode `prompt` after the first step."""

        def after_step(step: int, steps: int) -> bool | None:
            answer = on_step(step, steps) if on_step else None
            if prompt is not None and step == 1 and answer is not False:
                self.prompts.prepare(prompt)
            return answer

        return after_step

    def _conditioning(self, request: SegmentRequest, state: LTX2ContinuationState | None, plan: Plan) -> Conditioning:
        end_frames = None
        if isinstance(end := request.end, PinnedEnd):
            check_channels(end, self.pipeline.vae.config.latent_channels)
            if plan.stages == 2:
                if self._compiled:
                    self.warm_up(request)  # which compiles the decoder while no prompt is encoded
                with self._naming_model("decoding the end"), render_context("decoding the end", self._stream):
                    pictures = self._pictures(end.video_latents.to(self._device), end.decoding)
                    end_frames = self._copies.start(pictures)().numpy()
        return conditioning_of(
            request,
            state,
            audio_shape=self.pipeline.audio_shape,
            audio_rate=self.audio_rate,
            image_crf=plan.image_crf,
            end_frames=end_frames,
        )

    @property
    def _device(self) -> torch.device:
        """The device that computes, even if weights are offloaded."""
        device: torch.device = self.pipeline._execution_device
        return device

    def _pictures(self, latents: Tensor, decoding: Decoding) -> Checked:
        return self._picture_decoder(latents, decoding)

    def _naming_model(self, doing: str, *more: Lora) -> AbstractContextManager[None]:
        return naming_model(doing, self._name, (*self._named_loras, *more))
