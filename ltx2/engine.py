"""One segment: a prompt, a seed and the state before it in; pictures, sound and the next state out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES
from numpy.typing import NDArray
from torch import Tensor

from ltx2.checkpoint import default_cache, resolve_model
from ltx2.conditioning import AUDIO_SPACE, NORMALISED, Conditioning, conditioning_of
from ltx2.continuation import LTX2ContinuationState
from ltx2.errors import CheckpointError, EngineMemoryError, SegmentCancelledError, UnsupportedStateError
from ltx2.fast import backend_of, compile_blocks, speed_up
from ltx2.loading import find_loras, fuse_loras, load_pipeline, variant_of_pipeline
from ltx2.lora import Lora
from ltx2.pipeline import AudioPrefix, LongtakePipeline
from ltx2.placement import PRECISIONS, device_of, place, precision_of
from ltx2.prompts import PromptEncoder, new_stream
from ltx2.segment import OnStep, SegmentOutput, SegmentRequest
from ltx2.timeline import SegmentTiming, sound_seconds

# diffusers guides unless each of these is off, and then calls the transformer three times a step
_OFF = {"guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
NO_GUIDANCE = _OFF | {f"audio_{knob}": value for knob, value in _OFF.items()}


class Engine:
    """A loaded LTX-2 model: one segment at a time, unguided, in the schedule of its variant."""

    def __init__(self, pipeline: LongtakePipeline, *, encode_ahead: bool = True, compiled: bool = False) -> None:
        self.pipeline = pipeline
        self.variant = variant_of_pipeline(pipeline)
        self.audio_rate = self.variant.audio_rate
        self.prompts = PromptEncoder(pipeline, ahead=encode_ahead)
        self._compiled = compiled
        self._stream = new_stream(self._device, priority=-1)  # what is encoded beside it takes what it leaves
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

        device, precision, offload: see `ltx2.placement`. compiler: see `ltx2.fast.backend_of`. Raises CheckpointError,
        EngineMemoryError, and ValueError for a setting that cannot be.
        """
        target = device_of(device)
        exactness = precision_of(precision, target)
        found = find_loras(loras)
        pipeline = load_pipeline(resolve_model(model, default_cache()), PRECISIONS[exactness])
        with _memory_errors(f"{model} on {target}"):
            fuse_loras(pipeline, found, target if offload == "none" else torch.device("cpu"))
            return cls.ready(pipeline, target, exactness, offload=offload, compiler=compiler)

    @classmethod
    def ready(
        cls, pipeline: LongtakePipeline, device: torch.device, precision: str, *, offload: str, compiler: str
    ) -> Self:
        """An engine of a loaded `pipeline`, made quick and put where it computes; the settings are those of `load`."""
        backend = backend_of(compiler, device, offload)
        if device.type == "cuda" or backend or precision == "fp8":
            speed_up(pipeline.transformer, float8=precision == "fp8", device=device)
        place(pipeline, device, offload)
        if backend:
            compile_blocks(pipeline.transformer, backend, default_cache().parent / "kernels")
        return cls(pipeline, encode_ahead=offload == "none", compiled=backend is not None)

    def run(
        self,
        request: SegmentRequest,
        state: LTX2ContinuationState | None = None,
        *,
        on_step: OnStep | None = None,
        next_prompt: str | None = None,
    ) -> SegmentOutput:
        """Render one segment; the same request and state give the same bytes on the same kind of device.

        A continuation is conditioned on `state`; a first segment and one after a cut only pass its metadata
        on. `on_step(step, steps)` is called after each denoising step, counted from 1; when it returns False
        the segment ends in SegmentCancelledError, and the engine is ready for the next. `next_prompt`, the prompt of
        the segment that follows, is encoded beside the steps after the first. Raises UnsupportedStateError for a state
        that cannot be rendered, EngineMemoryError when the device is full.
        """
        conditioning = self._conditioning(request, state)
        with _rendering(f"segment {request.timing.index}", self._stream):
            try:
                video_latents, audio_latents = self._denoise(
                    request, conditioning, self._preparing(next_prompt, on_step)
                )
                frames, sound = self.decode(video_latents, audio_latents)
            finally:
                self.prompts.finish()
        return SegmentOutput(
            frames=frames,
            sound=sound,
            audio_rate=self.audio_rate,
            video_latents=video_latents,
            audio_latents=audio_latents,
            state=self._next_state(request.timing, frames, audio_latents, state.metadata if state else {}),
        )

    def decode(self, video_latents: Tensor, audio_latents: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Frames and sound of a `SegmentOutput`'s latents: the bytes that `run` gave with them."""
        with _rendering("decoding", self._stream):
            return self._pictures(video_latents), self._sound(audio_latents)

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
            return Conditioning()
        if state is None:
            raise UnsupportedStateError(f"segment {request.timing.index} continues another, but has no state")
        size = (request.height, request.width)
        return conditioning_of(state, request.timing, size=size, audio_shape=self._audio_shape)

    @property
    def _device(self) -> torch.device:
        """Where it computes, wherever the weights are now."""
        device: torch.device = self.pipeline._execution_device
        return device

    @property
    def _audio_shape(self) -> tuple[int, int]:
        """Channels and mel bins of the audio latents: (8, 16)."""
        mel = self.pipeline.audio_mel_bins // self.pipeline.audio_vae_mel_compression_ratio
        return self.pipeline.audio_latent_channels, mel

    def _denoise(
        self, request: SegmentRequest, conditioning: Conditioning, on_step: OnStep | None
    ) -> tuple[Tensor, Tensor]:
        timing = request.timing

        def report(_: Any, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
            if on_step and on_step(step + 1, self.variant.steps) is False:
                raise SegmentCancelledError(f"segment {timing.index} was cancelled after step {step + 1}")
            return tensors

        video, audio = self.pipeline(
            prompt=request.prompt,
            width=request.width,
            height=request.height,
            num_frames=timing.shape.frames,
            frame_rate=float(timing.shape.fps),
            conditions=_conditions(conditioning),
            audio_prefix=self._audio_prefix(timing, conditioning),
            prompts=self.prompts,
            generator=torch.Generator("cpu").manual_seed(request.seed),  # the same noise on every device
            num_inference_steps=self.variant.steps,
            sigmas=DISTILLED_SIGMA_VALUES if self.variant.distilled else None,
            use_cross_timestep=self.variant.use_cross_timestep,
            callback_on_step_end=report,
            output_type="latent",
            return_dict=False,
            **NO_GUIDANCE,
        )
        video, audio = video.to("cpu", self.pipeline.vae.dtype), self.pipeline.normalize_audio(audio).to("cpu")
        return video.contiguous(), audio.contiguous()  # as they are when they come back from a file

    def _audio_prefix(self, timing: SegmentTiming, conditioning: Conditioning) -> AudioPrefix:
        channels, mel = self._audio_shape
        latents, mask = torch.zeros(1, channels, timing.audio_latents, mel), torch.ones(timing.audio_latents)
        if (kept := conditioning.audio) is not None:
            normal = kept if conditioning.audio_is_normalised else self.pipeline.normalize_audio(kept)
            latents[:, :, : kept.shape[2]], mask[: kept.shape[2]] = normal, 0
        return AudioPrefix(latents, mask, float(timing.offset))

    def _pictures(self, latents: Tensor) -> NDArray[np.uint8]:
        vae = self.pipeline.vae
        pixels = vae.decode(latents.to(self._device, vae.dtype)).sample[0].float()
        levels = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        frames: NDArray[np.uint8] = levels.permute(1, 2, 3, 0).contiguous().cpu().numpy()
        return frames

    def _sound(self, latents: Tensor) -> NDArray[np.float32]:
        pipeline = self.pipeline
        vae = pipeline.audio_vae
        mel = vae.decode(pipeline.denormalize_audio(latents.float()).to(self._device, vae.dtype)).sample
        wave = pipeline.vocoder(mel.to(pipeline.vocoder.dtype))[0].float().clamp(-1, 1)
        samples = int(sound_seconds(latents.shape[2]) * self.audio_rate)
        if wave.shape[1] < samples:
            raise CheckpointError(f"the vocoder gave {wave.shape[1]} of {samples} samples; its config is wrong")
        sound: NDArray[np.float32] = wave[:, :samples].T.contiguous().cpu().numpy()
        return sound

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


def _conditions(conditioning: Conditioning) -> list[LTX2VideoCondition]:
    if conditioning.frames is None:
        return []
    # crf=0: diffusers would compress a single frame as H.264 first
    return [LTX2VideoCondition(frames=conditioning.frames, index=0, strength=1.0, crf=0)]


@contextmanager
def _memory_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as exc:
        raise EngineMemoryError(f"{doing}: {exc}") from exc


@contextmanager
def _rendering(doing: str, stream: torch.cuda.Stream | None) -> Iterator[None]:
    """No gradients, typed memory errors, one CPU thread, only repeatable convolutions, and on CUDA this stream.

    Sums in another order differ in their last bits, and with them every byte that follows. Only small models run on a
    CPU; for them one thread is as fast as two.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if stream:
        stream.wait_stream(torch.cuda.current_stream(stream.device))  # which loaded the weights
    repeatable = torch.backends.cudnn.flags(deterministic=True)
    try:
        with torch.inference_mode(), repeatable, torch.cuda.stream(stream), _memory_errors(doing):
            yield
    finally:
        torch.set_num_threads(threads)
