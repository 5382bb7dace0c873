"""What a repository on the hub is, from its list of files, its configs and the headers of its weights."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import snapshot_download

from ltx2.checkpoints.files.recognition import (
    ALL_LORAS,
    DIFFUSERS_LAYOUT,
    FileKind,
    RecognizedFile,
    precision,
    recognize_header,
)
from ltx2.checkpoints.formats.weight_files import has_suffix
from ltx2.checkpoints.full_weights import FOLDER, folder_of, split_full
from ltx2.checkpoints.hub.fetching import bare_repository, configs_of, in_cache, missing_weights, weight_names
from ltx2.checkpoints.hub.files import SAFETENSORS, repository_set
from ltx2.checkpoints.hub.headers import file_names, file_sizes, hub_header
from ltx2.checkpoints.hub.outages import fetch_errors
from ltx2.checkpoints.reports.files import file_parts, files_report
from ltx2.checkpoints.reports.folders import (
    OTHER_WEIGHTS,
    ModelReport,
    Part,
    folder_part,
    pipeline_report,
    report_of_header,
)
from ltx2.checkpoints.resolve import UPSAMPLER_FOLDER, WEIGHTS, HubModel, check_configs, hub_model
from ltx2.checkpoints.upsampler_files import problem_with_file
from ltx2.checkpoints.variant import Variant
from ltx2.errors import CheckpointError

MOST_HEADERS = 12
"""How many weight files of a repository without an index are looked into."""


def report_of_repository(what: str) -> ModelReport:
    """The report of `owner/name[@revision]`. Configs are downloaded, and of weights their headers.

    Raises:
        CheckpointError: the repository cannot be read.
    """
    model = hub_model(what)
    sizes = file_sizes(model.repository, model.revision)
    if "model_index.json" not in sizes:
        files = [name for name in sizes if has_suffix(name)]
        recognized = [_recognize(model, name, sizes[name]) for name in files[:MOST_HEADERS]]
        parts = tuple(Part(_label(one), one.path, one.size, one.precision) for one in recognized)
        versions = {one.version for one in recognized if one.version}
        version = versions.pop() if len(versions) == 1 else None
        reason: str | None = str(bare_repository(model, files))
        if [one.kind for one in recognized] == [FileKind.UPSAMPLER]:
            reason = problem_with_file(hub_header(model, files[0]))
            return ModelReport(what, str(FileKind.UPSAMPLER), version, None, reason is None, reason, parts)
        if [one.kind for one in recognized] == [FileKind.LORA]:
            alone = report_of_header(what, Path(f"{what}:{files[0]}"), hub_header(model, files[0]))
            if alone.usable:
                return alone
        return ModelReport(what, "repository without a pipeline of diffusers", version, None, False, reason, parts)
    variant: Variant | None = None
    problem: str | None = None
    with fetch_errors(model.repository):
        folder = in_cache(
            snapshot_download(model.repository, revision=model.revision, allow_patterns=configs_of(full=model.full))
        )
    try:
        variant = check_configs(folder, full=model.full)
    except CheckpointError as error:
        problem = str(error)
    source = DIFFUSERS_LAYOUT.get(variant.version, "") if variant else " or ".join(DIFFUSERS_LAYOUT.values())
    parts_found: list[Part] = []
    missing: list[str] = []
    others = [name for name in OTHER_WEIGHTS if f"{name}/config.json" in sizes and not (model.full and name == FOLDER)]
    for name in (*WEIGHTS, UPSAMPLER_FOLDER, *others):
        lacking = None
        if name in WEIGHTS:
            files = weight_names(folder, name, full=model.full)
            lacking = missing_weights(model, files, sizes)
        else:
            files = [file for file in sizes if fnmatch(file, f"{name}/*.safetensors")]
        if lacking is not None:
            missing.append(f"{name}: {lacking}; get it from {source}")
            problem = problem or lacking
        elif files:
            size = sum(sizes[file] for file in files)
            place = f"{split_full(what)[0]}/{folder_of(name, full=model.full)}"
            parts_found.append(Part(name, place, size, precision(hub_header(model, files[0]))))
        elif name == UPSAMPLER_FOLDER:
            missing.append(f"{name} (only `stages: 2` needs it): {what} has none; get it from {source}")
        else:
            missing.append(f"{name}: {what} has no weights for it; get it from {source}")
    return pipeline_report(what, variant, problem, tuple(parts_found), tuple(missing))


def report_of_hub_file(what: str, encoder: Path | HubModel | None) -> ModelReport:
    """The report of `owner/name[@revision]:file`, with the parts in other files of the repository; reads headers.

    Raises:
        CheckpointError: the repository cannot be read, or the file is nothing that a spec can name.
    """
    model = hub_model(what)
    if encoder is None and (alone := _alone(what, model)) is not None:
        return alone
    local = encoder if isinstance(encoder, Path) else None
    found = repository_set(model, local, has_encoder=encoder is not None)
    problem = f"{found.main.recognized}; missing: {'; '.join(found.problems)}" if found.problems else None
    repository = what.partition(":")[0]
    sources = [path if path == str(local) else f"{repository}:{path}" for path in found.files]
    parts = file_parts(found, sources)
    if local is not None and local.is_dir():
        parts += (folder_part(local),)
    return files_report(what, found, None, problem, parts)


def _alone(what: str, model: HubModel) -> ModelReport | None:
    """The report of a file that a spec names by itself, a LoRA or an upsampler; None if it is something else."""
    if not has_suffix(model.file or "", SAFETENSORS) or model.file not in file_names(model.repository, model.revision):
        return None
    header = hub_header(model, model.file)
    kind = recognize_header(model.file, header).kind
    return report_of_header(what, Path(what), header) if kind in (*ALL_LORAS, FileKind.UPSAMPLER) else None


def _label(found: RecognizedFile) -> str:
    return ", ".join(found.parts) or str(found.kind)


def _recognize(model: HubModel, name: str, size: int) -> RecognizedFile:
    if has_suffix(name, (".gguf",)):
        return RecognizedFile(name, FileKind.GGUF, None, (), size, "quantized")
    return recognize_header(name, hub_header(model, name))
