"""The files of a repository on the Hugging Face hub and their headers, without downloading them.

With `HF_HUB_OFFLINE`, they are those in the hub's cache.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download

from ltx2.checkpoints.files.recognition import header_of
from ltx2.checkpoints.formats.weight_files import Header, StoredTensor
from ltx2.checkpoints.hub.outages import fetch_errors
from ltx2.checkpoints.resolve import HubModel


def file_sizes(repository: str, revision: str | None) -> dict[str, int]:
    """The files of a repository, with their sizes in bytes.

    Raises:
        CheckpointError: it cannot be read.
    """
    with fetch_errors(repository):
        if constants.HF_HUB_OFFLINE:
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=[]))
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
        info = HfApi().model_info(repository, revision=revision or "main", files_metadata=True)
        return {one.rfilename: int(one.size or 0) for one in info.siblings or ()}


def file_names(repository: str, revision: str | None) -> list[str]:
    """The files of a repository; raises as `file_sizes`."""
    if constants.HF_HUB_OFFLINE:
        return list(file_sizes(repository, revision))
    with fetch_errors(repository):
        return HfApi().list_repo_files(repository, revision=revision)


def hub_header(model: HubModel, name: str) -> Header:
    """The header of the safetensors file `name` in the repository of `model`; CheckpointError if it cannot be read."""
    with fetch_errors(model.repository):
        if constants.HF_HUB_OFFLINE:
            return header_of(Path(hf_hub_download(model.repository, name, revision=model.revision)))
        found: Any = HfApi().parse_safetensors_file_metadata(model.repository, name, revision=model.revision)
        tensors = {
            key: StoredTensor(str(one.dtype), tuple(one.shape), one.data_offsets[1] - one.data_offsets[0])
            for key, one in found.tensors.items()
        }
        return Header(tensors, dict(found.metadata or {}))
