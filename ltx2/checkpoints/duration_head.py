"""The duration head of LTX-2.5 in a model's files: its config, and where its tensors are. No torch.

Its names in the authors' files are those of diffusers, but for the attention, whose three projections are one tensor.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from ltx2.checkpoints.components import Component, Stored
from ltx2.checkpoints.files.authors_names import bare_name
from ltx2.checkpoints.files.recognition import header_of
from ltx2.checkpoints.full_weights import split_full
from ltx2.checkpoints.resolve import SMALL_MODELS
from ltx2.errors import CheckpointError

DURATION_FOLDER = "duration_head"
RANDOM_WITH_HEAD = "tiny-2.5"
CLASS = "LTX2DurationHead"
_PREFIX = "duration_head."
_FOLDERS = (".", "../model_patches", "../checkpoints")
_HEADS = 4  # of the attention; no shape tells it


def lacks_head(model: str) -> bool:
    """Whether the `model` of a spec is known to have no duration head. What is not in files here may have one."""
    name, _ = split_full(model)
    if name in SMALL_MODELS:
        return name != RANDOM_WITH_HEAD
    path = Path(os.path.expanduser(name))
    try:
        if path.is_file():
            return head_in_files(path) is None
        is_known = (path / "model_index.json").is_file()
    except (CheckpointError, OSError, ValueError):
        return False  # whatever is wrong with it is said when it is loaded
    return is_known and not (path / DURATION_FOLDER / "config.json").is_file()


def head_in_files(named: Path) -> Component | None:
    """The duration head in the file `named`, next to it, or in the folder of ComfyUI for it; None: there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    folder = named if named.is_dir() else named.parent
    near = [file for place in _FOLDERS for file in sorted((folder / place).resolve().glob("*.safetensors"))]
    for file in dict.fromkeys([*([named] if named.is_file() else []), *near]):
        if found := _tensors(file):
            return Component(DURATION_FOLDER, _config(file, found), found)
    return None


def _tensors(file: Path) -> dict[str, Stored]:
    try:
        header = header_of(file)
    except CheckpointError:
        return {}  # of a file that is something else
    found: dict[str, Stored] = {}
    for written, one in header.tensors.items():
        name = bare_name(written)
        if name.startswith(_PREFIX):
            found |= dict(_parts(name.removeprefix(_PREFIX), Stored.of(file, written, one)))
    return found


def _parts(name: str, stored: Stored) -> Iterable[tuple[str, Stored]]:
    """A tensor with its name in diffusers; of a joint projection its three parts, which follow each other."""
    owner, joint, kind = name.partition("cross_attn.in_proj_")
    if not joint:
        yield name.replace("cross_attn.out_proj.", "to_out."), stored
        return
    size, shape = stored.size // 3, (stored.shape[0] // 3, *stored.shape[1:])
    for number, part in enumerate(("to_q", "to_k", "to_v")):
        yield f"{owner}{part}.{kind}", replace(stored, begin=stored.begin + number * size, size=size, shape=shape)


def _config(file: Path, tensors: Mapping[str, Stored]) -> dict[str, object]:
    try:
        hidden, video = tensors["video_input_proj.weight"].shape
        return {
            "_class_name": CLASS,
            "video_cross_attention_dim": video,
            "audio_cross_attention_dim": tensors["audio_input_proj.weight"].shape[1],
            "pooler_hidden_dim": hidden,
            "num_queries": tensors["attention_pooler.query_tokens"].shape[0],
            "num_pooler_heads": _HEADS,
            "mlp_hidden_dim": tensors["mlp_hidden.weight"].shape[0],
        }
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"{file}: a tensor of its duration head is missing, or of another shape: {error}"
        ) from None
