"""Which of many files are the parts of one model: a file with the transformer, and the parts that it lacks."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ltx2.checkpoints.files.precision import UNREADABLE, form_of, unreadable
from ltx2.checkpoints.files.recognition import (
    FileKind,
    RecognizedFile,
    header_of,
    is_named_distilled,
    recognize_header,
)
from ltx2.checkpoints.formats.gguf import ARCHITECTURE
from ltx2.checkpoints.formats.weight_files import Header, has_suffix
from ltx2.errors import CheckpointError, UnsupportedModelError

TEXT_ENCODER = "text_encoder"
PROJECTIONS = "text projections"
PARTS = ("transformer", "connectors", PROJECTIONS, "vae", "audio_vae", "vocoder", TEXT_ENCODER)
"""What a model consists of."""
VERSIONS = ("2.0", "2.3", "2.5")
MODEL_FOLDERS = ("diffusion_models", "unet", "checkpoints")
PART_FOLDERS = ("vae", "text_encoders", "clip", "latent_upscale_models")
"""Folders of ComfyUI: of models, and of parts that several models may share."""
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.\w+$")
_NO_SHARDS = "join them, because only the layout of diffusers may have shards"
_REPOSITORIES = {"2.0": "Lightricks/LTX-2", "2.3": "diffusers/LTX-2.3-Diffusers", "2.5": "Lightricks/LTX-2.5"}
_FILES_OF_2_5 = {
    "connectors": "diffusion_models/ltx-2.5-22b-distilled-transformer-bf16.safetensors",
    "vae": "vae/ltx-2.5-video-vae-conv-bf16.safetensors",
    "audio_vae": "vae/ltx-2.5-audio-vae-bf16.safetensors",
    "vocoder": "vae/ltx-2.5-audio-vae-bf16.safetensors",
    PROJECTIONS: "text_encoders/gemma4-12b-with-proj-ltx-2.5-bf16.safetensors",
    TEXT_ENCODER: "text_encoders/gemma4-12b-with-proj-ltx-2.5-bf16.safetensors",
}
_AUTHORS_FILES = {"2.0": "Lightricks/LTX-2", "2.3": "Lightricks/LTX-2.3"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may be a part of a model. path: on this machine, or in a repository."""

    path: str
    header: Header
    recognized: RecognizedFile

    @classmethod
    def of(cls, path: str, header: Header) -> Candidate:
        """The file `path` with this header."""
        return cls(path, header, recognize_header(path, header))

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of a model that are in it."""
        found = self.recognized
        return (TEXT_ENCODER, *found.parts) if found.kind is FileKind.TEXT_ENCODER else found.parts

    @property
    def is_gguf_encoder(self) -> bool:
        """Whether it is a text encoder, and nothing else, with llama.cpp's names."""
        return self.recognized.kind is FileKind.TEXT_ENCODER and ARCHITECTURE in self.header.metadata

    @property
    def is_distilled(self) -> bool:
        """See `is_named_distilled`."""
        return is_named_distilled(self.path)

    @property
    def has_transformer(self) -> bool:
        """Whether it can be named as a model."""
        return self.recognized.is_model


@dataclass(frozen=True, slots=True)
class FileSet:
    """The files of a model. chosen: the file of each part. problems: why parts are missing, and where to get them."""

    main: Candidate
    version: str
    chosen: dict[str, Candidate]
    problems: list[str] = field(default_factory=list)

    @property
    def is_distilled(self) -> bool:
        """Whether the weights are distilled, by the name of the file with the transformer."""
        return self.main.is_distilled

    @property
    def files(self) -> list[str]:
        """The paths of the files, each once."""
        return list(dict.fromkeys(one.path for one in self.chosen.values()))


def local_files(named: Path) -> list[Path]:
    """The files of weights next to the file `named`, or in the folder `named`, and in the folders of ComfyUI there."""
    folder = named if named.is_dir() else named.parent
    root = next((parent.parent for parent in (folder, folder.parent) if parent.name in MODEL_FOLDERS), folder)
    names = PART_FOLDERS if named.is_file() else (*MODEL_FOLDERS, *PART_FOLDERS)
    found = _weights(folder.iterdir())
    for name in names:
        if (root / name).is_dir():
            found += [file for file in _weights(_below(root / name)) if file not in found]
    return found


def _below(folder: Path) -> Iterator[Path]:
    """The files in `folder` and in all folders there, also in those that are links, each folder once."""
    seen = set[str]()
    for parent, folders, names in os.walk(folder, followlinks=True):
        if (place := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(place)
        yield from (Path(parent, name) for name in names)


def _weights(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if has_suffix(path) and path.is_file())


def local_candidates(named: Path) -> list[Candidate]:
    """The files of `local_files` whose headers can be read; the header of the file `named` must be.

    Raises:
        CheckpointError: `named` is damaged.
    """
    return looked_into(named)[0]


def looked_into(named: Path) -> tuple[list[Candidate], list[CheckpointError]]:
    """`local_candidates`, and why the headers of other files there cannot be read. Raises as it does."""
    found, errors = [], []
    for file in local_files(named):
        try:
            found.append(Candidate.of(str(file), header_of(file)))
        except CheckpointError as error:
            if file == named:
                raise
            errors.append(error)
    return found, errors


def main_file(named: str, candidates: Sequence[Candidate]) -> Candidate:
    """The file with the transformer: `named` itself, or the only one in the folder `named`.

    Raises:
        UnsupportedModelError: there is none, or more than one.
    """
    for one in candidates:
        if one.path == named:
            refuse_shard(one.path)
            if not one.has_transformer:
                raise UnsupportedModelError(f"{one.recognized}: {one.recognized.advice}")
            return one
    mains = [one for one in candidates if one.has_transformer]
    for one in mains:
        refuse_shard(one.path)
    if len(mains) > 1:
        listed = ", ".join(one.path for one in mains)
        raise UnsupportedModelError(f"{named} has {len(mains)} models: name one of them, {listed}")
    if not mains:
        raise UnsupportedModelError(f"{named} has no file with the transformer of LTX-2")
    return mains[0]


def refuse_shard(path: str, instead: str = _NO_SHARDS) -> None:
    """Refuse a shard: one of several files with the tensors of one model, as its name says. instead: what to do."""
    if match := _SHARD.search(path):
        raise UnsupportedModelError(f"{path} is one of {int(match[1])} shards of one file: {instead}")


def file_set(
    main: Candidate,
    candidates: Sequence[Candidate],
    encoder: Candidate | None,
    *,
    has_encoder: bool,
    form_in: Callable[[Candidate], str] | None = None,
) -> FileSet:
    """The parts of the model whose transformer is in `main`, from the `candidates`.

    encoder: the text encoder that was named, if it is a file; it may have the text projections. has_encoder: whether a
    text encoder was named or found elsewhere. form_in: names the form of weights that are not read;
    None: as the header does.
    """
    version = main.recognized.version or "2.0"
    found = FileSet(main, version, {part: main for part in main.parts if part in PARTS})
    if encoder is not None:
        found.chosen.update({part: encoder for part in (TEXT_ENCODER, PROJECTIONS) if part in encoder.parts})
    for part, one in (("transformer", main), (TEXT_ENCODER, encoder)):
        if one is not None and (form := form_of(one.header)) in UNREADABLE:
            found.problems.append(f"{part}: {unreadable(one.path, form_in(one) if form_in else form)}")
    if version not in VERSIONS:
        found.problems.append(f"support of LTX-{version}: longtake supports {', '.join(VERSIONS)}")
        return found
    others = [one for one in candidates if one.path != main.path and _fits(one, version)]
    for part in PARTS:
        if part in found.chosen or (part == TEXT_ENCODER and has_encoder):
            continue
        having = [one for one in others if part in one.parts]
        if part == TEXT_ENCODER:
            having = [one for one in having if (one.recognized.version == "2.5") is (version == "2.5")]
        # what says the version of the transformer comes before what does not say one
        having = [one for one in having if one.recognized.version == version] or having
        # connectors of distilled weights and of others may lie in one folder
        having = [one for one in having if one.is_distilled == main.is_distilled] or having
        if len(having) == 1:
            found.chosen[part] = having[0]
        elif having:
            listed = ", ".join(one.path for one in having)
            advice = "name one in `text_encoder`" if part == TEXT_ENCODER else "keep one of them"
            found.problems.append(f"{part}: {len(having)} files have it, {listed}: {advice}")
        else:
            unfit = [_unfit(one) for one in candidates if part in one.parts]
            found.problems.append(f"{part}: {''.join(unfit[:1])}{_advice(part, version, main)}")
    return found


def _fits(one: Candidate, version: str) -> bool:
    """Whether this file may have parts for a transformer of `version` in another file."""
    if "transformer" in one.parts or form_of(one.header) in UNREADABLE:
        return False
    return one.recognized.version in (None, version)


def _unfit(one: Candidate) -> str:
    """Why a part in this file is not taken."""
    if (form := form_of(one.header)) in UNREADABLE:
        return f"{one.path} has it in {form}, which longtake does not read; "
    return f"{one.path} has that of LTX-{one.recognized.version}; "


def _advice(part: str, version: str, main: Candidate) -> str:
    if part == TEXT_ENCODER:
        where = f"name a folder, a file or a hub id in `text_encoder`, such as {encoder_source(version)}"
        return f"{where}, or put it next to {Path(main.path).name}"
    if version == "2.5":
        return f"get {_FILES_OF_2_5[part]} from {_REPOSITORIES[version]}"
    return f"get a file that has it, such as one of {_AUTHORS_FILES[version]}"


def encoder_source(version: str) -> str:
    """What `text_encoder` may name for a model of `version`."""
    file = f":{_FILES_OF_2_5[TEXT_ENCODER]}" if version == "2.5" else ""
    return f"{_REPOSITORIES.get(version, _REPOSITORIES['2.3'])}{file}"
