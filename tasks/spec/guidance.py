"""The `guidance` table of a spec: how strongly each kind of guidance pulls, for the picture and for the sound."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator

from ltx2.sampling import Scales, check_scales

KNOBS = {"cfg": "guidance", "stg": "stg", "modality": "modality", "rescale": "rescale"}
"""What `ltx2.sampling` calls each key."""


def _pair(value: Any) -> Any:
    numbers = value if isinstance(value, list | tuple) else [value, value]
    if len(numbers) != 2 or any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        raise ValueError("must be a number, or two: [picture, sound]")
    return numbers


Pair = Annotated[tuple[float, float], BeforeValidator(_pair)]


class GuidanceSpec(BaseModel):
    """Scales for picture and sound, each a number for both or one each; None is what the model's authors advise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cfg: Pair | None = None
    stg: Pair | None = None
    modality: Pair | None = None
    rescale: Pair | None = None

    @field_validator("*")
    @classmethod
    def _in_range(cls, pair: tuple[float, float] | None, info: ValidationInfo) -> tuple[float, float] | None:
        if pair is not None:
            check_scales(KNOBS[str(info.field_name)], Scales(*pair))
        return pair

    @property
    def scales(self) -> dict[str, Scales]:
        """What is said here, under the names of `ltx2.sampling.Sampling`."""
        said = {knob: getattr(self, key) for key, knob in KNOBS.items()}
        return {knob: Scales(*pair) for knob, pair in said.items() if pair is not None}
