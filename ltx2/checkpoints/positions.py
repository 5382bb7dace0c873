"""How long a segment of a model may be: up to the last position in time that it knows. No torch."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from ltx2.checkpoints.formats.weight_files import read_json
from ltx2.checkpoints.full_weights import split_full
from ltx2.checkpoints.resolve import local_name
from ltx2.errors import CheckpointError
from ltx2.timeline import POSITIONS_S, longest_frames


def positions_s(model: str) -> int:
    """Seconds up to which the `model` of a spec has positions. What is not in a folder here has those of LTX-2."""
    name, _ = split_full(model)
    folder = Path(local_name(name))
    try:
        found = read_json(folder / "transformer" / "config.json").get("pos_embed_max_pos", POSITIONS_S)
    except CheckpointError:
        return POSITIONS_S
    return found if isinstance(found, int) else POSITIONS_S


def problem_with_length(frames: int, fps: Fraction, positions_s: int) -> str | None:
    """Why a model with `positions_s` cannot render this many frames; None if it can.

    Models with other positions than the published ones are small, and their trainers know what they can do.
    """
    longest = longest_frames(fps)
    if positions_s != POSITIONS_S or frames <= longest:
        return None
    return (
        f"{frames} at {float(fps):g} per second are {frames / float(fps):.1f} s; LTX-2 has positions up to "
        f"{POSITIONS_S} s, and thus at most {longest} frames at this rate: use shorter segments"
    )
