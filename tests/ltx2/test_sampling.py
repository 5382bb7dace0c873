"""Sampling settings, and the plan that each variant makes of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltx2.checkpoints.variant import Variant
from ltx2.errors import RequestError
from ltx2.sampling import ADVISED, NO_GUIDANCE, OFF, RANGES, Sampling, Scales, guidance_arguments, plan_of

DISTILLED, FULL = Variant("2.3", distilled=True), Variant("2.3", distilled=False)


@pytest.mark.parametrize("version", ["2.0", "2.3"])
def test_the_defaults_are_what_the_authors_advise(version: Any) -> None:
    # When nothing is set
    distilled = plan_of(Sampling(), Variant(version, distilled=True))
    full = plan_of(Sampling(), Variant(version, distilled=False))

    # Then a distilled model has its fixed schedule and no guidance, and a full model has all guidance
    assert (distilled.stages, distilled.steps, distilled.is_guided) == (1, 8, False)
    assert distilled.guidance_arguments == NO_GUIDANCE
    assert (full.stages, full.steps, full.is_guided) == (1, 30 if version == "2.3" else 40, True)
    assert full.guidance_arguments == {
        "guidance_scale": 3.0,
        "audio_guidance_scale": 7.0,
        "stg_scale": 1.0,
        "audio_stg_scale": 1.0,
        "modality_scale": 3.0,
        "audio_modality_scale": 3.0,
        "guidance_rescale": 0.7,
        "audio_guidance_rescale": 0.7,
    }


def test_no_guidance_turns_every_scale_off_in_diffusers() -> None:
    off = {"guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
    assert off | {f"audio_{name}": value for name, value in off.items()} == NO_GUIDANCE


@given(st.fixed_dictionaries({name: st.tuples(*[st.floats(*limits)] * 2) for name, limits in RANGES.items()}))
def test_a_full_model_gets_the_guidance_that_is_set(settings: dict[str, tuple[float, float]]) -> None:
    # Given any scales within their ranges
    guidance = {name: Scales(*pair) for name, pair in settings.items()}

    # When / Then the plan has them, and each stream gets its own; diffusers replaces a sound scale of 0 by the video's
    plan = plan_of(Sampling(**guidance), FULL)
    assert plan.guidance == guidance
    for argument, video in plan.guidance_arguments.items():
        if not argument.startswith("audio_"):
            usual = argument.removesuffix("_scale")
            name = {"guidance_scale": "guidance", "guidance_rescale": "rescale"}.get(argument, usual)
            assert video == guidance[name].video
            audio = plan.guidance_arguments[f"audio_{argument}"] or video
            assert audio == pytest.approx(guidance[name].audio, abs=1e-300)


def test_the_fixed_settings_of_a_distilled_model_may_be_given() -> None:
    assert plan_of(Sampling(steps=8, negative_prompt="", **OFF), DISTILLED) == plan_of(
        Sampling(negative_prompt=""), DISTILLED
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 30}, "steps is 30; LTX-2.3, distilled, has a fixed schedule of 8 steps"),
        (
            {"guidance": Scales(3, 1)},
            "guidance is 3 for the picture and 1 for the sound; LTX-2.3, distilled, was trained",
        ),
        (
            {"steps": 20, "guidance": Scales(3, 3), "stg": Scales(1, 1)},
            "steps is 20; .*; and guidance is 3 .* sound, stg is 1 .* sound; LTX-2.3, distilled, was trained",
        ),
        ({"stg": Scales(0, 1)}, "stg is 0 for the picture and 1 for the sound"),
        ({"modality": Scales(3, 3)}, "modality is 3"),
        ({"rescale": Scales(0.7, 0.7)}, "rescale is 0.7"),
        ({"negative_prompt": "blurry"}, r"a negative prompt changes nothing .*\(LTX-2.3, distilled\)"),
    ],
)
def test_a_distilled_model_rejects_what_it_was_not_trained_for(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        plan_of(Sampling(**settings), DISTILLED)


def test_a_negative_prompt_needs_guidance() -> None:
    with pytest.raises(RequestError, match="a negative prompt changes nothing"):
        plan_of(Sampling(negative_prompt="blurry", guidance=OFF["guidance"]), FULL)
    assert plan_of(Sampling(negative_prompt="blurry", guidance=Scales(1, 2)), FULL).negative_prompt == "blurry"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": 3}, "stages is 3; it must be 1 or 2"),
        ({"steps": 1}, r"steps is 1; it must be in 2\.\.200"),
        ({"steps": 201}, "steps is 201"),
        ({"guidance": Scales(0.5, 1)}, r"guidance of the picture is 0.5; it must be in 1\.\.30, and 1 is off"),
        ({"stg": Scales(1, -1)}, "stg of the sound is -1"),
        ({"modality": Scales(float("nan"), 1)}, "modality of the picture is nan"),
        ({"sigmas": (1.0,)}, r"there are 1 sigmas; there must be 2\.\.200"),
        ({"sigmas": (1.0, 0.5, 0.5)}, "the sigma 0.5 follows 0.5; sigmas must fall"),
        ({"sigmas": (1.0, float("nan"))}, "a sigma is nan"),
        ({"sigmas": (1.0, 0.0)}, r"a sigma is 0\.0; it must be above 0"),
        ({"sigmas": (1.0, 0.5), "steps": 3}, "steps is 3 and there are 2 sigmas"),
        ({"image_crf": 52}, r"image_crf is 52; it must be in 0\.\.51"),
        ({"rescale": Scales(1, 1.5)}, r"rescale of the sound is 1.5; it must be in 0\.\.1, and 0 is off"),
    ],
)
def test_a_setting_out_of_range_is_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


def test_advised_scales_are_in_range() -> None:
    assert Sampling(**ADVISED)
    assert guidance_arguments(OFF) == NO_GUIDANCE
