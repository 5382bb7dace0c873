"""Denoising of latents, in one stage or two.

With two stages, the first starts from noise at half width and height. Then the video latents are upsampled, renoised to
the noise level at which the second stage begins, and refined at full size. The audio latents are renoised and refined,
too; their size does not change. Both stages have the same conditioning: frames and images at the size of the stage, and
the pinned latents. At half size, those of a pinned end are encoded from its frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.transformers.transformer_ltx2 import LTX2PerturbedAttnProcessor
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition, calculate_shift
from diffusers.pipelines.ltx2.utils import (
    DEFAULT_NEGATIVE_PROMPT,
    DISTILLED_SIGMA_VALUES,
    STAGE_2_DISTILLED_SIGMA_VALUES,
)
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ltx2.checkpoints.loras.lora import Lora
from ltx2.checkpoints.resolve import HubModel
from ltx2.checkpoints.variant import Variant
from ltx2.errors import SegmentCancelledError
from ltx2.model.ancestral import AncestralScheduler
from ltx2.model.denoising.conditioning import Conditioning
from ltx2.model.denoising.cross_attention import apply_cross_attention_rule
from ltx2.model.denoising.first_latent import mark_first_latents
from ltx2.model.denoising.stage_loras import StageLoras
from ltx2.model.denoising.upsampler import LatentUpsampler
from ltx2.model.pipeline import LongtakePipeline, Pins
from ltx2.model.text.prompts import PromptEncoder
from ltx2.request import OnStep, PinnedEnd, SegmentRequest, VideoAfter
from ltx2.sampling import NO_GUIDANCE, Plan, Sampling, Shift, plan_of
from ltx2.timeline import SegmentTiming, latent_frames, latent_of

SHIFT_TERMINAL = 0.1  # in the scheduler of every published model that is not distilled
NEGATIVE_PROMPT = (
    "has_subtitles, has_blurbox, transition from black, transition to black, speech_ending_short, "
    + DEFAULT_NEGATIVE_PROMPT
)
"""The default of the model's authors since August 2026; diffusers 0.42.1 lacks the first five."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One run of the denoiser: size in pixels, the noise level before each step, and whether there is guidance.

    lora: fused in addition to the job's.
    """

    width: int
    height: int
    sigmas: list[float]
    is_guided: bool = True
    lora: Lora | None = None


class Denoiser:
    """Denoises segments with one loaded pipeline."""

    def __init__(
        self,
        pipeline: LongtakePipeline,
        variant: Variant,
        prompts: PromptEncoder,
        loras: StageLoras,
        source: Path | HubModel | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._prompts = prompts
        self._loras = loras
        self._variant = variant
        self._upsample = LatentUpsampler(pipeline, source)
        apply_cross_attention_rule(pipeline.transformer)
        mark_first_latents(pipeline.transformer)
        _enable_stg(pipeline.transformer, variant.stg_blocks)

    def plan(self, sampling: Sampling) -> Plan:
        """The plan of this model for `sampling`. Loads the upsampler, and finds the LoRA, if the plan needs them.

        Raises:
            RequestError: the model cannot do it.
            CheckpointError, EngineMemoryError: the upsampler or the LoRA cannot be loaded.
        """
        plan = plan_of(sampling, self._variant)
        if plan.stages == 2:
            self._upsample.load(plan.upsampler)
        if plan.stage2_lora is not None:
            self._loras.find(plan.stage2_lora)
        return plan

    def denoise(
        self,
        request: SegmentRequest,
        plan: Plan,
        conditioning: Conditioning,
        on_step: OnStep | None = None,
        *,
        first_steps: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Video latents as the VAE decodes them, and normalised audio latents, on the device; see `Engine.run`.

        first_steps: run only the first step of each stage, to compile it.
        """
        if conditioning.sound is not None:
            plan = plan.with_given_sound
        conditioning = self._with_encoded_end(conditioning)
        stages = self._stages(request, plan)
        steps = sum(len(stage.sigmas) for stage in stages)
        done = 0

        def report(_: Any, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
            if on_step and on_step(done + step + 1, steps) is False:
                raise SegmentCancelledError(
                    f"segment {request.timing.index} was cancelled after step {done + step + 1}"
                )
            self._pipeline._interrupt = first_steps  # skips the rest of the stage
            return tensors

        pins = self._pins(request.timing, conditioning)
        generator = torch.Generator("cpu").manual_seed(request.seed)  # the same noise on every device
        video: Tensor | None = None
        sounds: list[Tensor] = []
        for stage in stages:
            if not first_steps:  # compiled code does not depend on weights
                self._loras.use(stage.lora)
            start = None if video is None else self._upsample(video)
            call = self._arguments(request, plan, stage, conditioning)
            pins = replace(pins, video_end=self._video_end(conditioning, shrink=request.width // stage.width))
            ancestral = replace(self._variant, distilled=plan.distilled).is_ancestral and stage is stages[0]
            with _unshifted(self._pipeline, ancestral_seed=request.seed if ancestral else None):
                video, audio = self._pipeline(
                    latents=start, pins=pins, generator=generator, callback_on_step_end=report, **call
                )
            sounds.append(self._pipeline.normalize_audio(audio))
            pins = replace(pins, audio_start=sounds[-1])
            done += len(stage.sigmas)
        assert video is not None
        # with the memory layout that they have when read from a file
        latents = video.to(self._pipeline.vae.dtype).contiguous(), sounds[plan.sound_stage - 1].contiguous()
        _keep(latents, conditioning)
        return latents

    def _arguments(
        self, request: SegmentRequest, plan: Plan, stage: Stage, conditioning: Conditioning
    ) -> dict[str, Any]:
        negative = NEGATIVE_PROMPT if plan.negative_prompt is None else plan.negative_prompt
        return {
            "prompts": self._prompts,
            "prompt": request.prompt,
            "negative_prompt": negative if plan.is_guided and stage.is_guided else None,
            "width": stage.width,
            "height": stage.height,
            "num_frames": request.timing.shape.frames,
            "frame_rate": float(request.timing.shape.fps),
            "conditions": _conditions(conditioning, shrink=request.width // stage.width),
            "num_inference_steps": len(stage.sigmas),
            "sigmas": stage.sigmas,
            "spatio_temporal_guidance_blocks": list(self._variant.stg_blocks),
            "output_type": "latent",
            "return_dict": False,
            **(plan.guidance_arguments if stage.is_guided else NO_GUIDANCE),
        }

    def _stages(self, request: SegmentRequest, plan: Plan) -> list[Stage]:
        """The stages of a plan.

        With a LoRA for it, the second stage of a model that is not distilled is that of a distilled one, as the model's
        authors do. Without, it has the part of the model's own schedule below the second stage's first noise level.
        """
        width, height, frames = request.width, request.height, request.timing.shape.frames

        def schedule(width: int, height: int) -> list[float]:
            if plan.distilled:
                return list(DISTILLED_SIGMA_VALUES)
            tokens = latent_frames(frames) * (width // 32) * (height // 32)
            return shifted_sigmas(self._pipeline.scheduler, plan.steps, tokens, plan.shift)

        first = None if plan.sigmas is None else list(plan.sigmas)
        if plan.stages == 1:
            return [Stage(width, height, first or schedule(width, height))]
        half = Stage(width // 2, height // 2, first or schedule(width // 2, height // 2))
        if plan.stage2_lora is not None:
            distilled = list(STAGE_2_DISTILLED_SIGMA_VALUES)
            return [half, Stage(width, height, distilled, is_guided=False, lora=plan.stage2_lora)]
        begin = STAGE_2_DISTILLED_SIGMA_VALUES[0]
        refining = [begin, *(sigma for sigma in schedule(width, height) if sigma < begin)]
        return [half, Stage(width, height, refining)]

    def _pins(self, timing: SegmentTiming, conditioning: Conditioning) -> Pins:
        frames = tuple(image.frame for image in conditioning.images)
        offset = float(timing.offset)
        if (sound := conditioning.sound) is not None:
            mask = torch.zeros(timing.audio_latents)
            return Pins(sound.float(), mask, offset, sound_is_given=True, image_frames=frames)
        channels, mel = self._pipeline.audio_shape
        latents, mask = torch.zeros(1, channels, timing.audio_latents, mel), torch.ones(timing.audio_latents)
        if (kept := conditioning.audio) is not None:
            normal = kept if conditioning.audio_is_normalised else self._pipeline.normalize_audio(kept)
            latents[:, :, : kept.shape[2]], mask[: kept.shape[2]] = normal, 0
        if isinstance(end := conditioning.end, PinnedEnd) and end.audio_count:
            latents[:, :, -end.audio_count :], mask[-end.audio_count :] = end.audio_latents[:, :, -end.audio_count :], 0
        return Pins(latents, mask, offset, image_frames=frames)

    def _with_encoded_end(self, conditioning: Conditioning) -> Conditioning:
        """`conditioning` with the latents of a video that follows, instead of its frames."""
        if not isinstance(video := conditioning.end, VideoAfter):
            return conditioning
        latents = self._pipeline.encode_frames(video.pictures)
        end = PinnedEnd(latents, video.audio_latents, video_count=video.video_count, audio_count=video.audio_count)
        return replace(conditioning, end=end, end_frames=video.pictures)

    def _video_end(self, conditioning: Conditioning, *, shrink: int) -> Tensor | None:
        if not isinstance(end := conditioning.end, PinnedEnd):
            return None
        latents = end.video_latents
        if shrink > 1:
            assert conditioning.end_frames is not None
            latents = self._pipeline.encode_frames(_shrunk(conditioning.end_frames, shrink))
        return latents[:, :, -end.video_count :]


def shifted_sigmas(scheduler: FlowMatchEulerDiscreteScheduler, steps: int, tokens: int, shift: Shift) -> list[float]:
    """The noise levels of `steps` steps of a model that is not distilled.

    tokens: of the video. The scheduler may be that of a distilled model, whose config differs in two keys.
    """
    config = scheduler.config
    own = FlowMatchEulerDiscreteScheduler.from_config(
        config, use_dynamic_shifting=True, shift_terminal=config.shift_terminal or SHIFT_TERMINAL
    )
    mu = config.max_shift
    if shift == Shift.TOKENS:
        mu = calculate_shift(
            tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )
    own.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    sigmas: list[float] = own.sigmas[:-1].tolist()
    return sigmas


@contextmanager
def _unshifted(pipeline: LongtakePipeline, ancestral_seed: int | None) -> Iterator[None]:
    """Make the pipeline use sigmas unchanged, in ancestral steps of this seed, or in plain ones."""
    published = pipeline.scheduler
    if ancestral_seed is None:
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
            published.config, use_dynamic_shifting=False, shift_terminal=None
        )
    else:
        pipeline.scheduler = AncestralScheduler.seeded(published.config, ancestral_seed)
    try:
        yield
    finally:
        pipeline.scheduler = published


def _enable_stg(transformer: Any, blocks: tuple[int, ...]) -> None:
    """Make these blocks skip self-attention when perturbed. 2.0 configs lack the key, so diffusers does not do it."""
    for index in blocks:
        block = transformer.transformer_blocks[index]
        if block.perturbed_attn:
            continue
        for attention in (block.attn1, block.audio_attn1):
            processor = LTX2PerturbedAttnProcessor()
            processor._attention_backend = attention.processor._attention_backend
            attention.set_processor(processor)
        block.perturbed_attn = True


def _conditions(conditioning: Conditioning, *, shrink: int) -> list[LTX2VideoCondition]:
    """The first frames, and the images. diffusers appends images, whose latent index only has to be above 0."""
    given = [] if conditioning.frames is None else [(0, conditioning.frames)]
    given += [(latent_of(image.frame), image.pixels[None]) for image in conditioning.images]
    # crf=0: otherwise diffusers compresses a single frame as H.264 first
    return [
        LTX2VideoCondition(frames=_shrunk(frames, shrink), index=index, strength=1.0, crf=0) for index, frames in given
    ]


def _keep(latents: tuple[Tensor, Tensor], conditioning: Conditioning) -> None:
    """Write what an end or a given sound pins into the results. Normalising and back may have changed the last bit."""
    video, audio = latents
    if isinstance(end := conditioning.end, PinnedEnd):
        video[:, :, -end.video_count :] = end.video_latents[:, :, -end.video_count :].to(video)
        if end.audio_count:
            audio[:, :, -end.audio_count :] = end.audio_latents[:, :, -end.audio_count :].to(audio)
    if conditioning.sound is not None:
        audio.copy_(conditioning.sound)


def _shrunk(frames: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Frames `[v, H/factor, W/factor, 3]`; each pixel is the mean of those it replaces."""
    if factor == 1:
        return frames
    return np.stack([np.asarray(Image.fromarray(frame).reduce(factor)) for frame in frames])
