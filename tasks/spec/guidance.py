"""The `guidance` table of a spec: guidance scales for picture and sound."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator

from ltx2.sampling import Scales, check_scales

SAMPLING_NAMES = {"cfg": "guidance", "stg": "stg", "modality": "modality", "rescale": "rescale"}
"""The name of each key in `ltx2.sampling`."""


def _pair(value: Any) -> Any:
    numbers = value if isinstance(value, list | tuple) else [value, value]
    if len(numbers) != 2 or any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        raise ValueError("must be a number, or two: [picture, sound]")
    return numbers


Pair = Annotated[tuple[float, float], BeforeValidator(_pair)]


class GuidanceSpec(BaseModel):
    """Scales as `[picture, sound]` or one number; None: the model authors' default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cfg: Pair | None = None
    stg: Pair | None = None
    modality: Pair | None = None
    rescale: Pair | None = None

    @field_validator("*")
    @classmethod
    def _in_range(cls, pair: tuple[float, float] | None, info: ValidationInfo) -> tuple[float, float] | None:
        if pair is not None:
            check_scales(SAMPLING_NAMES[str(info.field_name)], Scales(*pair))
        return pair

    @property
    def scales(self) -> dict[str, Scales]:
        """The scales that are set, by their names in `ltx2.sampling.Sampling`."""
        pairs = {name: getattr(self, key) for key, name in SAMPLING_NAMES.items()}
        return {name: Scales(*pair) for name, pair in pairs.items() if pair is not None}
