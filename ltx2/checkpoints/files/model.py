"""A model in files as one description: variant, configs of the components, places of their tensors. No torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ltx2.checkpoints.components import Component, ModelFiles, Stored, TextEncoder
from ltx2.checkpoints.files.authors_configs import (
    Settings,
    audio_vae_config,
    connectors_config,
    scheduler_config,
    transformer_config,
    vae_config,
    vocoder_config,
)
from ltx2.checkpoints.files.authors_names import place_of
from ltx2.checkpoints.files.encoders import encoder_in_file, encoder_in_folder, encoder_near
from ltx2.checkpoints.files.precision import refused_form, weights_of
from ltx2.checkpoints.files.recognition import config_of, header_of
from ltx2.checkpoints.files.sets import (
    PROJECTIONS,
    TEXT_ENCODER,
    VERSIONS,
    Candidate,
    FileSet,
    file_set,
    looked_into,
    main_file,
    refuse_shard,
)
from ltx2.checkpoints.formats.gguf import ARCHITECTURE
from ltx2.checkpoints.formats.weight_files import Header, StoredTensor
from ltx2.checkpoints.variant import Config, Variant, check_text_width, variant_of
from ltx2.errors import CheckpointError, UnsupportedModelError

COMPONENTS = ("transformer", "connectors", "vae", "audio_vae", "vocoder")


def local_set(named: Path, encoder: Path | None, *, encoder_later: bool = False) -> FileSet:
    """The files of the model `named`, a file or a folder; parts that are missing are among its `problems`.

    encoder: the text encoder that was named, a file or folder. encoder_later: it was named, but is not here yet.

    Raises:
        CheckpointError: `named` is no model, or damaged.
    """
    if named.is_file() and (named.parent / "config.json").is_file():
        folder = named.parent.parent
        if (folder / "model_index.json").is_file():
            raise UnsupportedModelError(f"{named} is one file of the model in {folder}: name that folder")
    candidates, unread = looked_into(named)
    main = main_file(str(named), candidates)
    in_file = Candidate.of(str(encoder), header_of(encoder)) if encoder is not None and encoder.is_file() else None
    if in_file is not None:
        refuse_shard(in_file.path, f"name the folder, {Path(in_file.path).parent}, as `text_encoder`")
    if in_file is not None and TEXT_ENCODER not in in_file.parts:
        raise UnsupportedModelError(
            f"text_encoder: {in_file.recognized}: it must be a Gemma in one file, or its folder"
        )
    found = encoder_later or encoder is not None or encoder_near(named) is not None
    files = file_set(main, candidates, in_file, has_encoder=found, form_in=_refused_form)
    if files.problems:
        files.problems.extend(f"what is in a file that cannot be read: {error}" for error in unread)
    return files


def describe(named: Path, encoder: Path | None, *, encoder_later: bool = False) -> ModelFiles:
    """The model `named`, a file or a folder, with its parts; see `local_set`. Headers and sizes are read.

    Raises:
        UnsupportedModelError: its weights are of an unsupported kind, or a part is missing; says where to get it.
        CheckpointError: a file is damaged, or parts are of different versions.
    """
    return described(named, local_set(named, encoder, encoder_later=encoder_later), encoder)


def described(named: Path, files: FileSet, encoder: Path | None) -> ModelFiles:
    """The model `named` that consists of `files`, which are on this machine; raises as `describe`."""
    if files.version not in VERSIONS:
        raise UnsupportedModelError(f"{named} is LTX-{files.version}; longtake supports {', '.join(VERSIONS)}")
    if files.problems:
        raise UnsupportedModelError(f"{files.main.recognized}; missing: {'; '.join(files.problems)}")
    weights = {path: _weights(Path(path), one.header) for path, one in _by_path(files).items()}
    tensors: dict[str, dict[str, Stored]] = {name: {} for name in COMPONENTS}
    for path, stored in weights.items():
        for written, one in stored.items():
            place = place_of(written)
            if place is None or place[0] not in tensors or files.chosen[part_of(*place)].path != path:
                continue
            component, name = place
            if name in tensors[component]:
                raise CheckpointError(f"{path} has {component}.{name} under two names, {written:.200} is one of them")
            tensors[component][name] = one
    text_encoder = _text_encoder(named, files, encoder, weights)
    configs = _configs(files, tensors, text_encoder)
    try:
        variant = _variant(files, configs, text_encoder)
    except CheckpointError as exc:
        raise CheckpointError(f"{named}: {exc}") from exc
    if text_encoder is not None:
        shapes = [one.shape for name, one in tensors["connectors"].items() if name.endswith("text_proj_in.weight")]
        check_text_width(text_encoder.source, text_encoder.config, shapes[0][1] if shapes else None)
    components = {name: Component(name, configs[name], tensors[name]) for name in COMPONENTS}
    return ModelFiles(named, variant, components, configs["scheduler"], text_encoder)


def _by_path(files: FileSet) -> dict[str, Candidate]:
    return {one.path: one for one in files.chosen.values()}


def part_of(component: str, name: str) -> str:
    """The part of a model that a tensor belongs to: the projections may be in another file than the connectors."""
    return PROJECTIONS if component == "connectors" and "text_proj_in." in name else component


def _weights(path: Path, header: Header) -> dict[str, Stored]:
    """The weights in a file, by their name in it."""
    if ARCHITECTURE in header.metadata:
        return {name: Stored.of(path, name, one) for name, one in header.tensors.items()}
    with path.open("rb") as file:
        named = weights_of(str(path), header, _reader(file))
    scales = {scale: Stored.of(path, scale, header.tensors[scale]) for scale in named.values() if scale is not None}
    return {
        name: Stored.of(path, name, header.tensors[name], None if scale is None else scales[scale])
        for name, scale in named.items()
    }


def _refused_form(one: Candidate) -> str:
    with Path(one.path).open("rb") as file:
        return refused_form(one.path, one.header, _reader(file))


def _reader(file: BinaryIO) -> Callable[[StoredTensor], bytes]:
    def read(tensor: StoredTensor) -> bytes:
        file.seek(tensor.begin)
        return file.read(tensor.size)

    return read


def _text_encoder(
    named: Path, files: FileSet, encoder: Path | None, weights: dict[str, dict[str, Stored]]
) -> TextEncoder | None:
    chosen = files.chosen.get(TEXT_ENCODER)
    if chosen is not None:
        return encoder_in_file(Path(chosen.path), chosen.header, weights[chosen.path])
    folder = encoder or encoder_near(named)
    return None if folder is None else encoder_in_folder(folder)


def _configs(
    files: FileSet, tensors: dict[str, dict[str, Stored]], text_encoder: TextEncoder | None
) -> dict[str, Config]:
    """The configs of all components but the text encoder. Settings are those in the header of a component's file."""
    shapes = {name: {key: one.shape for key, one in found.items()} for name, found in tensors.items()}

    def settings(part: str, key: str) -> Settings:
        found = config_of(files.chosen[part].header).get(key)
        return found if isinstance(found, dict) else {}

    text = text_encoder.config.get("text_config", {}) if text_encoder else {}
    transformer = settings("transformer", "transformer")
    try:
        return {
            "transformer": transformer_config(shapes["transformer"], transformer),
            "connectors": connectors_config(shapes["connectors"], transformer, text.get("hidden_size")),
            "vae": vae_config(shapes["vae"], settings("vae", "vae")),
            "audio_vae": audio_vae_config(shapes["audio_vae"], settings("audio_vae", "audio_vae")),
            "vocoder": vocoder_config(shapes["vocoder"], settings("vocoder", "vocoder")),
            "scheduler": scheduler_config(files.is_distilled),
        }
    except CheckpointError as exc:
        raise CheckpointError(f"{', '.join(files.files)}: {exc}") from exc
    except (TypeError, ValueError, LookupError, AttributeError, ZeroDivisionError) as exc:
        raise CheckpointError(f"{', '.join(files.files)}: shapes or config of another model") from exc


def _variant(files: FileSet, configs: dict[str, Config], text_encoder: TextEncoder | None) -> Variant:
    all_configs = configs if text_encoder is None else {**configs, TEXT_ENCODER: text_encoder.config}
    variant = variant_of(all_configs)
    if variant.version != files.version:
        raise CheckpointError(
            f"its header says LTX-{files.version}, and its tensors are those of LTX-{variant.version}"
        )
    return variant
