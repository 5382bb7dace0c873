"""The headers of files on the Hugging Face hub, read without downloading the files."""

from __future__ import annotations

from typing import Any

from huggingface_hub import HfApi

from ltx2.checkpoints.hub_outages import fetch_errors
from ltx2.checkpoints.resolve import HubModel
from ltx2.checkpoints.weight_files import Header, StoredTensor


def hub_header(model: HubModel, name: str) -> Header:
    """The header of the safetensors file `name` in the repository of `model`; CheckpointError if it cannot be read."""
    with fetch_errors(model.repository):
        found: Any = HfApi().parse_safetensors_file_metadata(model.repository, name, revision=model.revision)
        tensors = {
            key: StoredTensor(str(one.dtype), tuple(one.shape), one.data_offsets[1] - one.data_offsets[0])
            for key, one in found.tensors.items()
        }
        return Header(tensors, dict(found.metadata or {}))
