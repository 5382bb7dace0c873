"""Fetching models in files, and text encoders, from the Hugging Face hub into its cache."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from huggingface_hub import hf_hub_download, snapshot_download

from ltx2.checkpoints.components import ModelFiles
from ltx2.checkpoints.files.model import describe, described
from ltx2.checkpoints.files.precision import form_of, refuse_form
from ltx2.checkpoints.files.recognition import header_of
from ltx2.checkpoints.files.sets import TEXT_ENCODER, Candidate, FileSet, file_set, main_file
from ltx2.checkpoints.formats.weight_files import has_suffix, shards_of
from ltx2.checkpoints.hub.fetching import in_cache, weight_names
from ltx2.checkpoints.hub.headers import file_names, hub_header
from ltx2.checkpoints.hub.outages import fetch_errors, waiting_for_hub
from ltx2.checkpoints.resolve import FileModel, HubModel
from ltx2.errors import UnsupportedModelError

SAFETENSORS = (".safetensors",)
MOST_FILES = 60
"""How many files of a repository are looked into to find the parts that the named one lacks."""
_ENCODER_FILES = ("text_encoder/*.json", "tokenizer/*", "*.json")
_INDEX = "model.safetensors.index.json"


def fetch_files(model: FileModel) -> ModelFiles:
    """Fetch what of `model` is on the hub, and describe it.

    Raises:
        CheckpointError: it cannot be fetched, is damaged, or a part is missing.
    """
    encoder = model.text_encoder
    if isinstance(encoder, HubModel):
        encoder = fetch_encoder(encoder)
    if isinstance(model.named, Path):
        return describe(model.named, encoder)
    return _fetch_set(model.named, encoder)


@waiting_for_hub
def fetch_encoder(encoder: HubModel) -> Path:
    """Fetch a text encoder: a file, or the folders text_encoder and tokenizer of a repository, or a whole one.

    Raises:
        UnsupportedModelError: its weights are in a form that is not read.
        CheckpointError: it cannot be fetched.
    """
    with fetch_errors(encoder.repository):
        if encoder.file is not None:
            if has_suffix(encoder.file, SAFETENSORS):  # its header can be read before it is downloaded
                refuse_form(f"{encoder.repository}:{encoder.file}", form_of(hub_header(encoder, encoder.file)))
            return in_cache(hf_hub_download(encoder.repository, encoder.file, revision=encoder.revision))
        configs = snapshot_download(encoder.repository, revision=encoder.revision, allow_patterns=[*_ENCODER_FILES])
        if (Path(configs) / TEXT_ENCODER / "config.json").is_file():
            weights = weight_names(Path(configs), TEXT_ENCODER)
        else:
            index = Path(configs) / _INDEX
            weights = list(shards_of(index)) if index.is_file() else ["model.safetensors"]
        patterns = [*_ENCODER_FILES, *weights]
        return in_cache(snapshot_download(encoder.repository, revision=encoder.revision, allow_patterns=patterns))


def repository_set(model: HubModel, encoder: Path | None, *, has_encoder: bool) -> FileSet:
    """The files of a repository that `model.file` and the parts that it lacks are in, from their headers.

    Raises:
        CheckpointError: the repository cannot be read, or the file is no model.
    """
    assert model.file is not None
    names = file_names(model.repository, model.revision)
    if model.file not in names:
        raise UnsupportedModelError(f"{model.repository} has no file {model.file}")
    if not has_suffix(model.file, SAFETENSORS):
        raise UnsupportedModelError(f"{model.file} cannot be fetched by itself: download it, and name the file")
    files = [name for name in names if has_suffix(name, SAFETENSORS) and not _is_component(name, names)]
    if len(files) > MOST_FILES:
        raise UnsupportedModelError(
            f"{model.repository} has {len(files)} files of weights: download those of one model into a folder"
        )
    candidates = [Candidate.of(name, hub_header(model, name)) for name in files]
    main = main_file(model.file, candidates)
    in_file = Candidate.of(str(encoder), header_of(encoder)) if encoder is not None and encoder.is_file() else None
    return file_set(main, candidates, in_file, has_encoder=has_encoder or encoder is not None)


def _is_component(name: str, names: list[str]) -> bool:
    """Whether a file is of a component in the layout of diffusers, next to its config."""
    return str(PurePosixPath(name).with_name("config.json")) in names


@waiting_for_hub
def _fetch_set(model: HubModel, encoder: Path | None) -> ModelFiles:
    found = repository_set(model, encoder, has_encoder=False)
    if found.problems:
        raise UnsupportedModelError(f"{found.main.recognized}; missing: {'; '.join(found.problems)}")
    local: dict[str, Candidate] = {}
    for path in found.files:
        place = Path(path)
        if encoder is None or path != str(encoder):
            with fetch_errors(model.repository):
                place = in_cache(hf_hub_download(model.repository, path, revision=model.revision))
        local[path] = Candidate.of(str(place), header_of(place))
    chosen = {part: local[one.path] for part, one in found.chosen.items()}
    main = local[found.main.path]
    return described(Path(main.path), FileSet(main, found.version, chosen), encoder)
