"""One segment: a prompt, a seed and the state before it in; pictures, sound and the next state out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltx2.acceleration.compile import backend_of, compile_blocks, compile_decoder, speed_up
from ltx2.checkpoints.lora import Lora
from ltx2.checkpoints.resolve import HubModel, default_cache, resolve_model
from ltx2.errors import CheckpointError, EngineMemoryError, UnsupportedStateError
from ltx2.model.conditioning import AUDIO_SPACE, NORMALISED, Conditioning, conditioning_of
from ltx2.model.denoiser import Denoiser
from ltx2.model.loading import find_loras, fuse_loras, load_pipeline, variant_of_pipeline
from ltx2.model.pipeline import LongtakePipeline
from ltx2.model.placement import PRECISIONS, device_of, place, precision_of
from ltx2.model.prompts import PromptEncoder, new_stream
from ltx2.request import OnState, OnStep, SegmentOutput, SegmentRequest
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.timeline import SegmentTiming, first_timing, next_timing, sound_seconds

Arriving = Callable[[], Tensor]
"""Waits until a copy is on the host, and gives it."""


class Engine:
    """A loaded LTX-2 model: one segment at a time, in the schedule of its variant.

    source: the checkpoint that `pipeline` is of; without one, nothing is rendered in two stages.
    compiled: parts of it are, so that new shapes are warmed up first. encode_ahead: see `PromptEncoder`.
    """

    def __init__(
        self,
        pipeline: LongtakePipeline,
        source: Path | HubModel | None = None,
        *,
        encode_ahead: bool = True,
        compiled: bool = False,
    ) -> None:
        self.pipeline = pipeline
        self.variant = variant_of_pipeline(pipeline)
        self.audio_rate = self.variant.audio_rate
        self.prompts = PromptEncoder(pipeline, ahead=encode_ahead)
        self._denoiser = Denoiser(pipeline, self.variant, self.prompts, source)
        self._compiled = compiled
        self._warm: set[tuple[object, ...]] = set()
        self._stream = new_stream(self._device, priority=-1)  # what is encoded beside it takes what it leaves
        self._copies = new_stream(self._device)
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
        compiler: str = "auto",
    ) -> Engine:
        """Load `model` (see `resolve_model`) with `loras` (see `resolve_lora`) fused into it, ready for a device.

        device, precision, offload: see `ltx2.model.placement`. compiler: see `ltx2.acceleration.compile.backend_of`. Raises CheckpointError,
        EngineMemoryError, and ValueError for a setting that cannot be.
        """
        target = device_of(device)
        exactness = precision_of(precision, target)
        found = find_loras(loras)
        source = resolve_model(model, default_cache())
        pipeline = load_pipeline(source, PRECISIONS[exactness])
        with _memory_errors(f"{model} on {target}"):
            fuse_loras(pipeline, found, target if offload == "none" else torch.device("cpu"))
            return cls.ready(pipeline, target, exactness, offload=offload, compiler=compiler, source=source)

    @classmethod
    def ready(
        cls,
        pipeline: LongtakePipeline,
        device: torch.device,
        precision: str,
        *,
        offload: str,
        compiler: str,
        source: Path | HubModel | None = None,
    ) -> Self:
        """An engine of a loaded `pipeline`, made quick and put where it computes; the settings are those of `load`."""
        backend = backend_of(compiler, device, offload)
        if device.type == "cuda" or backend or precision == "fp8":
            speed_up(pipeline.transformer, float8=precision == "fp8", device=device)
        place(pipeline, device, offload)
        if backend:
            kernels = default_cache().parent / "kernels"
            compile_blocks(pipeline.transformer, backend, kernels)
            if offload == "none":  # else it decodes in tiles
                compile_decoder(pipeline.vae, backend, kernels)
        # blocks that are not compiled choose their attention kernels by switches that all threads share
        ahead = offload == "none" and (backend is not None or device.type == "cpu")
        return cls(pipeline, source, encode_ahead=ahead, compiled=backend is not None)

    def warm_up(self, request: SegmentRequest) -> None:
        """Compile what a job of segments like `request` needs, unless it is there; a job of any length needs no more.

        That is two shapes, of a first segment (or one after a cut) and of a continuation; one step of each stage, and
        what it leaves as pictures.
        """
        plan = self._denoiser.plan(request.sampling)
        first = first_timing(request.timing.shape)
        for timing in (first, next_timing(first)):
            size = (request.width, request.height, timing.shape.frames, timing.audio_latents)
            shape = (*size, plan.stages, str(plan.guidance))
            if shape not in self._warm:
                like = replace(request, timing=timing, image=None)
                with _rendering("warming up", self._stream):
                    latents, _ = self._denoiser.denoise(like, plan, Conditioning(), first_steps=True)
                    if timing is first:  # the pictures of both are of one shape
                        self._pictures(latents)
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
        """Render one segment; the same request and state give the same bytes on the same kind of device.

        A continuation is conditioned on `state`; a first segment and one after a cut only pass its metadata
        on. `on_step(step, steps)` is called after each denoising step, counted from 1 over all stages; when it
        returns False the segment ends in SegmentCancelledError, and the engine is ready for the next. `next_prompt`,
        the prompt of the segment that follows, is encoded beside the steps after the first. `on_state` is called with
        the new state and the latents while a GPU still makes the sound; what it raises ends the segment.

        Raises RequestError for what this model cannot do, UnsupportedStateError for a state that cannot be rendered,
        EngineMemoryError when the device is full.
        """
        plan = self._denoiser.plan(request.sampling)
        conditioning = self._conditioning(request, state)
        if self._compiled:
            self.warm_up(request)
        metadata = state.metadata if state else {}
        with _rendering(f"segment {request.timing.index}", self._stream):
            try:
                latents = self._denoiser.denoise(request, plan, conditioning, self._preparing(next_prompt, on_step))
                video_latents, audio_latents = (self._copied(part) for part in latents)
                pictures, sound = self._decoded(*latents)
                frames = pictures().numpy()
                following = self._next_state(request.timing, frames, audio_latents(), metadata)
                if on_state is not None:
                    on_state(following, video_latents(), audio_latents())
                return SegmentOutput(
                    frames=frames,
                    sound=sound().numpy(),
                    audio_rate=self.audio_rate,
                    video_latents=video_latents(),
                    audio_latents=audio_latents(),
                    state=following,
                )
            finally:
                self.prompts.finish()

    def decode(self, video_latents: Tensor, audio_latents: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Frames and sound of a `SegmentOutput`'s latents: the bytes that `run` gave with them."""
        with _rendering("decoding", self._stream):
            pictures, sound = self._decoded(video_latents.to(self._device), audio_latents.to(self._device))
            return pictures().numpy(), sound().numpy()

    def _decoded(self, video_latents: Tensor, audio_latents: Tensor) -> tuple[Arriving, Arriving]:
        """Frames and sound of latents on the device; all is asked of a GPU before anything is waited for."""
        return self._copied(self._pictures(video_latents)), self._copied(self._sound(audio_latents))

    def _copied(self, tensor: Tensor) -> Arriving:
        """Begin to copy `tensor` to the host, beside what is asked of the GPU after this."""
        if self._stream is None or self._copies is None:
            here = tensor.cpu()
            return lambda: here
        host = torch.empty_like(tensor, device="cpu", pin_memory=True)  # several times as fast
        self._copies.wait_stream(self._stream)
        with torch.cuda.stream(self._copies):
            host.copy_(tensor, non_blocking=True)
            done = self._copies.record_event()
        tensor.record_stream(self._copies)

        def arrived() -> Tensor:
            done.synchronize()
            return host

        return arrived

    def _preparing(self, prompt: str | None, on_step: OnStep | None) -> OnStep:
        """`on_step`, which after the first step also begins to encode `prompt`."""

        def after(step: int, steps: int) -> bool | None:
            go_on = on_step(step, steps) if on_step else None
            if prompt is not None and step == 1 and go_on is not False:
                self.prompts.prepare(prompt)
            return go_on

        return after

    def _conditioning(self, request: SegmentRequest, state: LTX2ContinuationState | None) -> Conditioning:
        if not request.timing.continued:
            return Conditioning(None if request.image is None else request.image[None])
        if state is None:
            raise UnsupportedStateError(f"segment {request.timing.index} continues another, but has no state")
        size = (request.height, request.width)
        return conditioning_of(state, request.timing, size=size, audio_shape=self.pipeline.audio_shape)

    @property
    def _device(self) -> torch.device:
        """Where it computes, wherever the weights are now."""
        device: torch.device = self.pipeline._execution_device
        return device

    def _pictures(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        pixels = vae.decode(latents.to(vae.dtype)).sample[0].float()
        levels: Tensor = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return levels.permute(1, 2, 3, 0).contiguous()

    def _sound(self, latents: Tensor) -> Tensor:
        pipeline = self.pipeline
        vae = pipeline.audio_vae
        raw = pipeline.denormalize_audio(latents.float()).to(vae.dtype)
        # its transposed convolutions would add up in any order; unless told to, `flags` switches cuDNN off altogether
        with torch.backends.cudnn.flags(enabled=True, deterministic=True):
            mel = vae.decode(raw).sample
            wave: Tensor = pipeline.vocoder(mel.to(pipeline.vocoder.dtype))[0].float().clamp(-1, 1)
        samples = int(sound_seconds(latents.shape[2]) * self.audio_rate)
        if wave.shape[1] < samples:
            raise CheckpointError(f"the vocoder gave {wave.shape[1]} of {samples} samples; its config is wrong")
        return wave[:, :samples].T.contiguous()

    def _next_state(
        self,
        timing: SegmentTiming,
        frames: NDArray[np.uint8],
        audio_latents: Tensor,
        metadata: dict[str, Any],
    ) -> LTX2ContinuationState:
        return LTX2ContinuationState(
            segment_index=timing.index,
            video_frames=list(frames[-timing.shape.overlap :].copy()),
            audio_latents=audio_latents,
            audio_sample_rate=self.audio_rate,
            audio_conditioning_num_frames=timing.next_pinned,
            audio_conditioning_strength=0.0,
            video_position_offset_sec=float(timing.next_offset),
            metadata=metadata | {AUDIO_SPACE: NORMALISED},
        )


@contextmanager
def _memory_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as exc:
        raise EngineMemoryError(f"{doing}: {exc}") from exc


@contextmanager
def _rendering(doing: str, stream: torch.cuda.Stream | None) -> Iterator[None]:
    """No gradients, typed memory errors, on CUDA this stream, and on a CPU one thread.

    Sums in another order differ in their last bits, and with them every byte that follows. Only small models run on a
    CPU; for them one thread is as fast as two.
    """
    threads = torch.get_num_threads()
    if stream is None:
        torch.set_num_threads(1)
    else:
        stream.wait_stream(torch.cuda.current_stream(stream.device))  # which loaded the weights
    try:
        with torch.inference_mode(), torch.cuda.stream(stream), _memory_errors(doing):
            yield
    finally:
        torch.set_num_threads(threads)
