"""What `longtake model check` says of a model in files: its parts, which file each is in, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ltx2.checkpoints.files.authors_names import place_of
from ltx2.checkpoints.files.encoders import encoder_near
from ltx2.checkpoints.files.model import described, local_set, part_of
from ltx2.checkpoints.files.precision import form_of
from ltx2.checkpoints.files.recognition import precision
from ltx2.checkpoints.files.sets import PARTS, TEXT_ENCODER, Candidate, FileSet
from ltx2.checkpoints.formats.weight_files import Header
from ltx2.checkpoints.reports.cards import CARDS
from ltx2.checkpoints.reports.folders import FULL_LAYERS, ModelReport, Part, folder_part
from ltx2.checkpoints.resolve import HubModel
from ltx2.checkpoints.variant import Variant
from ltx2.errors import CheckpointError


def report_of_files(what: str, named: Path, encoder: Path | HubModel | None) -> ModelReport:
    """The report of the model `named`, a file or a folder. encoder: the text encoder that was named.

    Raises:
        CheckpointError: `named` is no model, or damaged.
    """
    later = isinstance(encoder, HubModel)
    encoder = encoder if isinstance(encoder, Path) else None
    found = local_set(named, encoder, encoder_later=later)
    variant: Variant | None = None
    problem: str | None = None
    try:
        variant = described(named, found, encoder).variant
    except CheckpointError as error:
        problem = str(error)
    parts = file_parts(found, found.files)
    folder = encoder or encoder_near(named)
    if TEXT_ENCODER not in found.chosen and folder is not None:
        parts += (folder_part(folder),)
    return files_report(what, found, variant, problem, parts)


def files_report(
    what: str, found: FileSet, variant: Variant | None, problem: str | None, parts: tuple[Part, ...]
) -> ModelReport:
    """The report of a model in files, here or on the hub."""
    number = len({part.source for part in parts})
    return ModelReport(
        what=what,
        kind="model in one file" if number == 1 else f"model in {number} files or folders",
        version=found.version,
        distilled=variant.distilled if variant else found.is_distilled or None,
        usable=problem is None,
        problem=problem,
        parts=parts,
        cards=CARDS if variant and problem is None and variant.layers >= FULL_LAYERS else (),
        missing=tuple(found.problems),
    )


def file_parts(found: FileSet, sources: list[str]) -> tuple[Part, ...]:
    """The parts in files. sources: what to call the files of `found.files`."""
    named: Mapping[str, str] = dict(zip(found.files, sources, strict=True))
    return tuple(
        _part(part, found.chosen[part], named[found.chosen[part].path]) for part in PARTS if part in found.chosen
    )


def _part(part: str, inside: Candidate, source: str) -> Part:
    """The share of a file that is this part."""
    tensors = {
        name: tensor
        for name, tensor in inside.header.tensors.items()
        if inside.is_gguf_encoder or ((place := place_of(name)) is not None and part_of(*place) == part)
    }
    form = form_of(Header(tensors, {}))
    stored = precision(Header(tensors, {}))
    return Part(part, source, sum(one.size for one in tensors.values()), form or stored)
