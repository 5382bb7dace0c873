"""The check behind `longtake model check`: what a small model, a folder, a file or a hub id is. No torch."""

from __future__ import annotations

import os
from pathlib import Path

from ltx2.checkpoints.files.recognition import recognize
from ltx2.checkpoints.full_weights import split_full
from ltx2.checkpoints.reports.files import report_of_files
from ltx2.checkpoints.reports.folders import PIPELINE, ModelReport, report_of_file, report_of_folder
from ltx2.checkpoints.resolve import (
    SMALL_MODELS,
    hub_model,
    is_in_files,
    refuse_encoder,
    resolve_encoder,
    resolve_model,
)


def check_model(what: str, cache: Path, text_encoder: str | None = None) -> ModelReport:
    """The report of `what`; see `resolve_model` for the arguments. Of a repository, only configs are downloaded.

    Raises:
        CheckpointError: it does not exist, or a file is damaged.
    """
    found = _report(what, cache, text_encoder)
    if found.kind == PIPELINE:
        refuse_encoder(what, text_encoder)
    return found


def _report(what: str, cache: Path, text_encoder: str | None) -> ModelReport:
    name, full = split_full(what)
    local = os.path.expanduser(name)
    encoder = None if text_encoder is None else resolve_encoder(text_encoder)
    if name in SMALL_MODELS:
        found = resolve_model(name, cache)
        assert isinstance(found, Path)
        return report_of_folder(what, found, full=full)
    if is_in_files(local) and (os.path.isdir(local) or recognize(Path(local)).is_model):
        return report_of_files(what, Path(local), encoder)
    if os.path.isdir(local):
        return report_of_folder(what, Path(local), full=full)
    if os.path.isfile(local):
        return report_of_file(what, Path(local))
    from ltx2.checkpoints.reports.hub import report_of_hub_file, report_of_repository  # slow to import

    if hub_model(what).file is not None:
        return report_of_hub_file(what, encoder)
    return report_of_repository(what)
