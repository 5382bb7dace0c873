"""Finding a latent upsampler of its own: a folder, a single file, or a repository on the hub. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ltx2.checkpoints.formats.weight_files import Header, read_header, read_json
from ltx2.checkpoints.hub_names import HubName
from ltx2.checkpoints.loras.lora import hub_file, single_weights_file
from ltx2.checkpoints.resolve import SHIPPED, UPSAMPLER_FOLDER, WEIGHTS
from ltx2.errors import CheckpointError, RequestError, UnsupportedModelError

SUFFIX = ".safetensors"
CLASS = "LTX2LatentUpsamplerModel"


def own_upsampler(model: Path | None) -> Path:
    """The folder of the upsampler of the checkpoint in the folder `model`; None is a checkpoint without a folder.

    Raises:
        RequestError: it has none.
    """
    if model is None or not (model / UPSAMPLER_FOLDER / "config.json").is_file():
        raise RequestError(f"stages is 2, but {no_upsampler(model)}")
    return model / UPSAMPLER_FOLDER


def no_upsampler(model: Path | None) -> str:
    """That the checkpoint in the folder `model` has no upsampler, and what to do."""
    named = SHIPPED.name if model == SHIPPED else model or "this model"
    return f"{named} has no {UPSAMPLER_FOLDER}: {instead_of_upsampler(model)}"


def instead_of_upsampler(model: Path | None) -> str:
    """What to do where the checkpoint in the folder `model` has no upsampler."""
    if model == SHIPPED:
        return "it renders in one stage; for two, use `tiny` or a published model"
    return "use one stage, or name the one of a published LTX-2 of the same version as the upsampler"


def resolve_upsampler(named: str) -> Path | HubName:
    """What `named` is: a folder with a config.json, a .safetensors file, or `owner/name[@revision][:file]`.

    A folder may be a model's, with the upsampler in it.

    Raises:
        CheckpointError: it does not exist. UnsupportedModelError: it is something else.
    """
    local = Path(os.path.expanduser(named.replace("\0", "")))
    if named and os.path.isdir(local):
        return upsampler_in(local)
    if os.path.isfile(local):
        upsampler_config(local)
        return local
    found = hub_file(named)
    if found is None:
        raise CheckpointError(
            f"no such upsampler: {named:.200} (must be a folder with a config.json, a {SUFFIX} file, or a hub id "
            f"owner/name[@revision][:file{SUFFIX}])"
        )
    return found


def upsampler_in(folder: Path) -> Path:
    """The folder or file of the upsampler in `folder`. Raises the errors of `resolve_upsampler`."""
    inner = folder / UPSAMPLER_FOLDER
    if (inner / "config.json").is_file():
        folder = inner
    if (folder / "config.json").is_file():
        check_class(folder)
        return folder
    file = folder / single_weights_file(str(folder), os.listdir(folder))
    upsampler_config(file)
    return file


def is_upsampler(folder: Path) -> bool:
    """Whether `folder` is a latent upsampler in the layout of diffusers."""
    config = folder / "config.json"
    return config.is_file() and read_json(config).get("_class_name") == CLASS


def problem_with_upsampler(config: Mapping[str, Any], channels: int | None = None) -> str | None:
    """Why an upsampler with this config cannot be used; None if it can. channels: of the model's latents, if known."""
    space = 1.0
    if config.get("spatial_upsample", True):
        space = config.get("rational_spatial_scale", 2.0) if config.get("use_rational_resampler", True) else 2.0
    found, time = config.get("in_channels", 128), 2 if config.get("temporal_upsample", False) else 1
    if (space, time) == (2.0, 1) and channels in (None, found):
        return None
    return (
        f"upsamples {found} channels, {space:g} times in space and {time} times in time; it must be "
        f"{f'{channels} channels, ' if channels else ''}2 times and 1 time"
    )


def problem_with_file(header: Header) -> str | None:
    """Why an upsampler in a single file with this `header` cannot be used; None if it can."""
    config = config_of_header(header)
    return "is not a latent upsampler of LTX-2" if config is None else problem_with_upsampler(config)


def check_class(folder: Path) -> None:
    """Raise UnsupportedModelError unless the component in `folder` is a latent upsampler of LTX-2."""
    if not is_upsampler(folder):
        kind = read_json(folder / "config.json").get("_class_name")
        raise UnsupportedModelError(f"{folder} has a {kind!s:.100}; an upsampler is a {CLASS}")


def names_in_repository(repository: str, names: Iterable[str]) -> list[str]:
    """The files of the upsampler in a repository that has the files `names`: a config with weights, or one file.

    Raises:
        CheckpointError: there is neither, or more than one file.
    """
    names = list(names)
    for folder in (f"{UPSAMPLER_FOLDER}/", ""):
        if f"{folder}config.json" in names:
            stem = f"{folder}{WEIGHTS['vae']}"  # all models of diffusers have the same file names
            weights = [name for name in names if name.startswith((f"{stem}{SUFFIX}", f"{stem}-"))]
            return [f"{folder}config.json", *weights]
    return [single_weights_file(repository, names)]


def upsampler_config(file: Path) -> dict[str, Any]:
    """The settings of diffusers' class for the upsampler in a single `file`, as its model's authors publish it.

    Raises:
        CheckpointError: the file is missing or damaged. UnsupportedModelError: it is no upsampler.
    """
    if file.suffix.lower() != SUFFIX:
        raise CheckpointError(f"an upsampler must be a {SUFFIX} file, not {file!s:.200}")
    config = config_of_header(read_header(file))
    if config is None:
        raise UnsupportedModelError(f"{file} is not a latent upsampler of LTX-2")
    return config


def config_of_header(header: Header) -> dict[str, Any] | None:
    """The settings that the shapes of the tensors tell; None if they are not those of an upsampler.

    Scales of 0.75 and 4 have the same shapes as others: they are taken from the metadata.
    """
    shapes = {name: tensor.shape for name, tensor in header.tensors.items()}
    first, space, up = (
        shapes.get(name) for name in ("initial_conv.weight", "upsampler.conv.weight", "upsampler.0.weight")
    )
    if first is None or len(first) not in (4, 5) or (space or up or ()) == () or "final_conv.weight" not in shapes:
        return None
    middle = first[0]
    blocks = {name.split(".")[1] for name in shapes if name.startswith("res_blocks.")}
    config: dict[str, Any] = {
        "in_channels": first[1],
        "mid_channels": middle,
        "num_blocks_per_stage": len(blocks),
        "dims": len(first) - 2,
        "spatial_upsample": True,
        "temporal_upsample": False,
        "use_rational_resampler": space is not None,
        "rational_spatial_scale": _scale(header.metadata, space[0] // middle) if space else 2.0,
    }
    if up:
        config["temporal_upsample"] = len(up) == 5
        config["spatial_upsample"] = up[0] != 2 * middle
    return config


def _scale(metadata: Mapping[str, str], parts: int) -> float:
    """The scale of a resampler whose convolution makes `parts` of each pixel: 4, 9 or 16."""
    try:
        written = json.loads(metadata.get("config", "{}"))
        return float(written["spatial_scale"] if "spatial_scale" in written else written["rational_spatial_scale"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return {4: 2.0, 9: 1.5, 16: 4.0}.get(parts, 0.0)
