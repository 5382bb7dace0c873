"""What a folder, a file or a repository is, and whether longtake can use it: `longtake model check`. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ltx2.checkpoints.diffusion_decoder import DIFFUSION_FOLDER
from ltx2.checkpoints.files.encoders import encoder_folder
from ltx2.checkpoints.files.recognition import (
    ALL_LORAS,
    DIFFUSERS_LAYOUT,
    FileKind,
    header_of,
    precision,
    recognize,
    recognize_header,
    size_text,
)
from ltx2.checkpoints.formats.weight_files import Header, check_weights, has_suffix, read_header, read_json, weight_map
from ltx2.checkpoints.full_weights import FOLDER, SUFFIX, folder_of
from ltx2.checkpoints.loras.file import factors_of
from ltx2.checkpoints.reports.cards import CARDS, ENCODER_BYTES, Card
from ltx2.checkpoints.resolve import (
    UPSAMPLER_FOLDER,
    WEIGHTS,
    check_configs,
    check_folder,
    check_is_pipeline,
    refuse_other_files,
)
from ltx2.checkpoints.upsampler_files import (
    instead_of_upsampler,
    is_upsampler,
    problem_with_file,
    problem_with_upsampler,
)
from ltx2.checkpoints.variant import Variant
from ltx2.errors import CheckpointError

FULL_LAYERS = 48
PIPELINE = "pipeline of diffusers"
"""The kind of a model in the layout of diffusers."""
OTHER_WEIGHTS = (DIFFUSION_FOLDER, FOLDER)
"""What a model need not have."""
USES = {
    FileKind.LORA: "under `loras:`, with the model that it was made for",
    FileKind.UPSAMPLER: "as the `upsampler:` of a spec with `stages: 2`",
}
"""How a spec names what is not a model."""
NEEDED_BY = {UPSAMPLER_FOLDER: "`stages: 2`", DIFFUSION_FOLDER: "`decoder: diffusion`", FOLDER: f"`model: ...{SUFFIX}`"}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a model. source: a folder or file. size: in bytes. precision: dtypes, the largest share first."""

    name: str
    source: str
    size: int
    precision: str


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What `what` is. distilled: None if unknown. missing: parts, and where to get them.

    usable: whether a spec can name it, as its model or, if it is a LoRA or an upsampler, as that. problem: why not.
    """

    what: str
    kind: str
    version: str | None
    distilled: bool | None
    usable: bool
    problem: str | None
    parts: tuple[Part, ...] = ()
    cards: tuple[Card, ...] = ()
    missing: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The report as text."""
        version = f", LTX-{self.version}" if self.version else ""
        distilled = {True: ", distilled", False: ", not distilled", None: ""}[self.distilled]
        lines = [f"{self.what}: {self.kind}{version}{distilled}"]
        lines += [
            f"  {part.name:<17} {size_text(part.size):>10}  {part.precision:<12} {part.source}" for part in self.parts
        ]
        if self.parts:
            lines.append(f"  {'together':<17} {size_text(sum(part.size for part in self.parts)):>10}")
        lines += [f"  missing: {one}" for one in self.missing]
        lines += [f"  {card}" for card in self.cards]
        encoder = next((part.size for part in self.parts if part.name == "text_encoder"), ENCODER_BYTES)
        if self.cards and encoder < 0.9 * ENCODER_BYTES:  # not one that lacks only the tower for pictures
            lines.append(f"  measured with a text encoder of {size_text(ENCODER_BYTES)}; this one needs less")
        use = next((f" {use}" for kind, use in USES.items() if self.kind.startswith(kind)), "")
        lines.append(f"  can be used{use}" if self.usable else f"  cannot be used: {self.problem}")
        return lines


def report_of_file(what: str, file: Path) -> ModelReport:
    """The report of one file of weights; raises CheckpointError if it is damaged, or another file."""
    refuse_other_files(file)
    return report_of_header(what, file, header_of(file))


def report_of_header(what: str, file: Path, header: Header) -> ModelReport:
    """The report of one file of weights, here or on the hub, that has this `header`."""
    found = recognize_header(str(file), header)
    problem: str | None = f"{found}: {found.advice}"
    if found.kind in ALL_LORAS:
        try:
            factors_of(file, header)
            problem = None
        except CheckpointError as error:
            problem = str(error)
    if found.kind is FileKind.UPSAMPLER:
        problem = problem_with_file(header)
    part = Part(", ".join(found.parts) or str(found.kind), str(file), found.size, found.precision)
    kind = f"{found.kind}, {found.detail}" if found.detail else str(found.kind)
    return ModelReport(what, kind, found.version, None, problem is None, problem, (part,))


def report_of_folder(what: str, folder: Path, *, full: bool = False) -> ModelReport:
    """The report of a folder: a pipeline of diffusers, or whatever else is in it. full: see `check_folder`."""
    try:
        check_is_pipeline(folder)
    except CheckpointError as error:
        if is_upsampler(folder):
            return _report_of_upsampler(what, folder)
        files = [file for file in sorted(folder.iterdir()) if has_suffix(file)]
        if len(files) == 1 and (alone := report_of_file(what, files[0])).usable:
            return alone
        recognized = [recognize(file) for file in files]
        parts = [Part(", ".join(one.parts) or str(one.kind), one.path, one.size, one.precision) for one in recognized]
        versions = {one.version for one in recognized if one.version}
        version = versions.pop() if len(versions) == 1 else None
        return ModelReport(what, "no pipeline of diffusers", version, None, False, str(error), tuple(parts))
    problems: list[str] = []
    variant: Variant | None = None
    try:
        variant = check_configs(folder, full=full)
        check_folder(folder, full=full)
    except CheckpointError as error:
        problems.append(str(error))
    source = DIFFUSERS_LAYOUT.get(variant.version, "") if variant else " or ".join(DIFFUSERS_LAYOUT.values())
    found: list[Part] = []
    missing: list[str] = []
    others = [name for name in OTHER_WEIGHTS if (folder / name).is_dir() and not (full and name == FOLDER)]
    for name in (*WEIGHTS, UPSAMPLER_FOLDER, *others):
        try:
            weights = folder_of(name, full=full)
            found.append(_part(folder / weights, weights))
        except CheckpointError as error:
            only = f" (only {NEEDED_BY[name]} needs it)" if name in NEEDED_BY else ""
            lacks = name == UPSAMPLER_FOLDER and not (folder / name).is_dir()
            advice = instead_of_upsampler(folder) if lacks else f"{error}; get it from {source}"
            missing.append(f"{name}{only}: {advice}")
    return pipeline_report(what, variant, problems[0] if problems else None, tuple(found), tuple(missing))


def _report_of_upsampler(what: str, folder: Path) -> ModelReport:
    parts: tuple[Part, ...] = ()
    try:
        parts = (Part(str(FileKind.UPSAMPLER), str(folder), *_size_and_precision(folder, WEIGHTS["vae"])),)
        problem = problem_with_upsampler(read_json(folder / "config.json"))
    except CheckpointError as error:
        problem = str(error)
    return ModelReport(what, str(FileKind.UPSAMPLER), None, None, problem is None, problem, parts)


def pipeline_report(
    what: str, variant: Variant | None, problem: str | None, parts: tuple[Part, ...], missing: tuple[str, ...]
) -> ModelReport:
    """The report of a pipeline in the layout of diffusers."""
    return ModelReport(
        what=what,
        kind=PIPELINE,
        version=variant.version if variant else None,
        distilled=variant.distilled if variant else None,
        usable=problem is None,
        problem=problem,
        parts=parts,
        cards=CARDS if variant and problem is None and variant.layers >= FULL_LAYERS else (),
        missing=missing,
    )


def folder_part(named: Path) -> Part:
    """The text encoder in the folder `named`, or in the folder text_encoder there."""
    folder = encoder_folder(named) or named
    return _part(folder, "text_encoder")


def _part(folder: Path, name: str) -> Part:
    return Part(name, str(folder), *_size_and_precision(folder, WEIGHTS.get(name, WEIGHTS["vae"])))


def _size_and_precision(folder: Path, stem: str) -> tuple[int, str]:
    check_weights(folder, stem)
    headers: Mapping[Path, Header] = {file: read_header(file) for file in set(weight_map(folder, stem).values())}
    return sum(file.stat().st_size for file in headers), precision(*headers.values())
