"""Sampling parameters of a request, and the plan that a model derives from them. No torch."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from ltx2.checkpoints.loras.lora import Lora
from ltx2.checkpoints.variant import Variant
from ltx2.errors import RequestError

FEWEST_STEPS, MOST_STEPS = 2, 200  # a schedule of one step cannot be shifted
WORST_CRF = 51

# diffusers reads an audio scale of 0 as "the same as for video"; this becomes 0 in every tensor dtype
_ZERO = sys.float_info.min


class Scales(NamedTuple):
    """The scale of one kind of guidance, for picture and sound."""

    video: float
    audio: float


RANGES = {"guidance": (1.0, 30.0), "stg": (0.0, 10.0), "modality": (1.0, 30.0), "rescale": (0.0, 1.0)}
"""Valid scales of each kind of guidance; the lower end is off."""
OFF = {knob: Scales(low, low) for knob, (low, _) in RANGES.items()}
ADVISED = {
    "guidance": Scales(3.0, 7.0),
    "stg": Scales(1.0, 1.0),
    "modality": Scales(3.0, 3.0),
    "rescale": Scales(0.7, 0.7),
}
"""The scales that the model's authors advise for models that are not distilled, as in diffusers' pipelines."""

_DIFFUSERS = {
    "guidance": "guidance_scale",
    "stg": "stg_scale",
    "modality": "modality_scale",
    "rescale": "guidance_rescale",
}


def check_sigmas(sigmas: tuple[float, ...]) -> None:
    """Check the noise levels of a first stage. ValueError: too few or many, not falling, or outside (0, 1]."""
    if not FEWEST_STEPS <= len(sigmas) <= MOST_STEPS:
        raise ValueError(f"there are {len(sigmas)} sigmas; there must be {FEWEST_STEPS}..{MOST_STEPS}")
    for before, sigma in zip((math.inf, *sigmas), sigmas, strict=False):
        if not 0 < sigma <= 1:
            raise ValueError(f"a sigma is {sigma}; it must be above 0 and at most 1")
        if sigma >= before:
            raise ValueError(f"the sigma {sigma} follows {before}; sigmas must fall")


def check_scales(knob: str, scales: Scales) -> None:
    """Check the scales of one kind of guidance. ValueError: a scale is outside RANGES."""
    low, high = RANGES[knob]
    for stream, scale in zip(("picture", "sound"), scales, strict=True):
        if not (math.isfinite(scale) and low <= scale <= high):
            raise ValueError(f"{knob} of the {stream} is {scale}; it must be in {low:g}..{high:g}, and {low:g} is off")


def check_for_two_stages(stages: int, **settings: object) -> None:
    """Check that `settings`, by name, which only two stages use, are None with one. ValueError: names the first."""
    for name, value in settings.items():
        if value is not None and stages == 1:
            raise ValueError(f"{name} is used with two stages only: remove it, or set stages to 2")


class Shift(StrEnum):
    """How far the noise levels of a model that is not distilled are shifted upwards."""

    FIXED = "fixed"
    """By the scheduler's `max_shift`, 2.05, as the authors' command line does."""
    TOKENS = "tokens"
    """The more, the more tokens the picture has, without a limit, as diffusers and the authors' HQ pipeline do."""


class Decoder(StrEnum):
    """What decodes pictures."""

    CONVOLUTIONAL = "convolutional"
    """The decoder of the video VAE."""
    DIFFUSION = "diffusion"
    """The diffusion decoder of LTX-2.5."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of a request. None means the value that the model's authors advise, see `plan_of`.

    stages: 1, or 2: half the width and height first, then upsampled and refined. steps: of the first stage, 2..200.
    sigmas: the noise level before each step of the first stage instead, falling, in (0, 1]. shift: of the noise levels
    that `steps` gives. distilled: what the weights are; None: what the model's configs say. image_crf: a start image is
    compressed as H.264 with this quality first, 0..51; 0 leaves it as it is.
    sound_stage: the stage whose sound is kept. upsampler: what upsamples between two stages, see `resolve_upsampler`;
    None: the model's own. stage2_lora: for models that are not distilled; fused in addition to the model's LoRAs in the
    second stage, which then has the distilled schedule and no guidance.
    decoder: of the pictures.
    negative_prompt: what guidance steers away from. guidance: classifier-free (1 is off). stg: spatio-temporal (0 is
    off). modality: away from predictions of picture and sound without each other (1 is off). rescale: how far the
    standard deviation of guided predictions is rescaled to that of unguided ones, 0..1. ValueError: outside its range.
    """

    stages: int = 1
    steps: int | None = None
    negative_prompt: str | None = None
    guidance: Scales | None = None
    stg: Scales | None = None
    modality: Scales | None = None
    rescale: Scales | None = None
    sigmas: tuple[float, ...] | None = None
    shift: Shift = Shift.FIXED
    distilled: bool | None = None
    image_crf: int | None = None
    sound_stage: int | None = None
    upsampler: str | None = None
    stage2_lora: Lora | None = None
    decoder: Decoder = Decoder.CONVOLUTIONAL

    def __post_init__(self) -> None:
        if self.stages not in (1, 2):
            raise ValueError(f"stages is {self.stages}; it must be 1 or 2")
        check_for_two_stages(
            self.stages, sound_stage=self.sound_stage, upsampler=self.upsampler, stage2_lora=self.stage2_lora
        )
        if self.sound_stage not in (None, 1, 2):
            raise ValueError(f"sound_stage is {self.sound_stage}; it must be 1 or 2")
        if self.steps is not None and not FEWEST_STEPS <= self.steps <= MOST_STEPS:
            raise ValueError(f"steps is {self.steps}; it must be in {FEWEST_STEPS}..{MOST_STEPS}")
        if self.sigmas is not None:
            check_sigmas(self.sigmas)
            if self.steps not in (None, len(self.sigmas)):
                raise ValueError(f"steps is {self.steps} and there are {len(self.sigmas)} sigmas; remove one of them")
        if self.image_crf is not None and not 0 <= self.image_crf <= WORST_CRF:
            raise ValueError(f"image_crf is {self.image_crf}; it must be in 0..{WORST_CRF}, and 0 is off")
        for knob in RANGES:
            if (scales := getattr(self, knob)) is not None:
                check_scales(knob, scales)


@dataclass(frozen=True, slots=True)
class Plan:
    """A `Sampling` with the defaults of a model filled in, except an unset negative prompt.

    sigmas: of the first stage, if the request or a distilled model fixes them. upsampler, stage2_lora: as requested.
    """

    stages: int
    steps: int
    negative_prompt: str | None
    guidance: dict[str, Scales]
    sigmas: tuple[float, ...] | None
    shift: Shift
    distilled: bool
    image_crf: int
    sound_stage: int = 1
    upsampler: str | None = None
    stage2_lora: Lora | None = None

    @property
    def is_guided(self) -> bool:
        """Whether classifier-free guidance is on. Only it uses the negative prompt."""
        return max(self.guidance["guidance"]) > 1

    @property
    def with_given_sound(self) -> Plan:
        """The plan for a segment whose sound is given: guidance of the sound, which would change nothing, is off."""
        guidance = {knob: scales._replace(audio=OFF[knob].audio) for knob, scales in self.guidance.items()}
        return replace(self, guidance=guidance)

    @property
    def guidance_arguments(self) -> dict[str, float]:
        """The arguments of a diffusers pipeline for this guidance."""
        return guidance_arguments(self.guidance)


def guidance_arguments(guidance: dict[str, Scales]) -> dict[str, float]:
    """The arguments of a diffusers pipeline for these scales, with separate scales for sound."""
    arguments: dict[str, Any] = {}
    for knob, name in _DIFFUSERS.items():
        video, audio = guidance[knob]
        arguments |= {name: video, f"audio_{name}": audio or (_ZERO if video else 0.0)}
    return arguments


NO_GUIDANCE = guidance_arguments(OFF)
"""The arguments that switch guidance off. All are needed, because diffusers' defaults switch it on."""


def plan_of(sampling: Sampling, variant: Variant) -> Plan:
    """The plan of a model of this `variant` for `sampling`.

    A distilled model has a fixed schedule and was trained to be rendered without guidance. Of two stages, it keeps the
    sound of the second; other models keep that of the first, as the authors' pipelines do.

    Raises:
        RequestError: steps, guidance or a LoRA of the second stage for a distilled model, or a negative prompt without
            classifier-free guidance; the message names every such parameter.
    """
    if sampling.distilled is not None:
        variant = replace(variant, distilled=sampling.distilled)
    problems = []
    if variant.distilled and sampling.sigmas is None and sampling.steps not in (None, variant.steps):
        problems.append(
            f"steps is {sampling.steps}; {variant}, has a fixed schedule of {variant.steps} steps: remove it, or give "
            "sigmas"
        )
    advised = OFF if variant.distilled else ADVISED
    guidance = {knob: getattr(sampling, knob) or advised[knob] for knob in RANGES}
    on = [
        f"{knob} is {scales.video:g} for the picture and {scales.audio:g} for the sound"
        for knob, scales in guidance.items()
        if variant.distilled and scales != OFF[knob]
    ]
    if on:
        problems.append(
            f"{', '.join(on)}; {variant}, was trained to be rendered without guidance: remove it, or use a model that "
            "is not distilled"
        )
    if variant.distilled and sampling.stage2_lora is not None:
        problems.append(
            f"stage2_lora makes the second stage distilled, which {variant}, is already: remove it, or use a model "
            "that is not distilled"
        )
    if problems:
        raise RequestError("; and ".join(problems))
    plan = Plan(
        stages=sampling.stages,
        steps=len(sampling.sigmas) if sampling.sigmas else sampling.steps or variant.steps,
        negative_prompt=sampling.negative_prompt,
        guidance=guidance,
        sigmas=sampling.sigmas,
        shift=sampling.shift,
        distilled=variant.distilled,
        image_crf=variant.image_crf if sampling.image_crf is None else sampling.image_crf,
        sound_stage=min(sampling.stages, sampling.sound_stage or (2 if variant.distilled else 1)),
        upsampler=sampling.upsampler,
        stage2_lora=sampling.stage2_lora,
    )
    if sampling.negative_prompt and not plan.is_guided:
        raise RequestError(
            f"a negative prompt changes nothing without classifier-free guidance, which is off ({variant}): remove it"
        )
    return plan
