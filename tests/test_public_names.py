"""The names that other people's programs import. Adding one is a decision; losing one breaks them."""

from __future__ import annotations

import importlib

import pytest

PUBLIC = {
    "blobstore": {
        "BlobCorruptError",
        "BlobInfo",
        "BlobNotFoundError",
        "BlobStore",
        "BlobStoreConfigError",
        "BlobStoreError",
        "BlobStoreFullError",
        "BlobStoreUnavailableError",
        "BlobStoreVersionError",
        "Collected",
        "InMemoryBlobStore",
        "ManagedBlobStore",
        "RedisBlobStore",
        "blob_id_of",
        "is_blob_id",
        "open_blob_store",
    },
    "ltx2": {
        "DEFAULT_INLINE_THRESHOLD_BYTES",
        "LTX2_CONTINUATION_KIND",
        "LTX2_CONTINUATION_SCHEMA_VERSION",
        "ContinuationState",
        "LTX2ContinuationState",
        "LTX2Error",
    },
    "tasks": {
        "Job",
        "JobSpec",
        "LongtakeError",
        "SegmentSpec",
        "Settings",
        "app",
        "edit",
        "list_jobs",
        "load_spec",
        "submit",
    },
}


@pytest.mark.parametrize("package", PUBLIC)
def test_the_public_names(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) == PUBLIC[package]
    assert len(module.__all__) == len(set(module.__all__))
    assert set(module.__all__) <= set(dir(module))  # also those that are imported on first use


@pytest.mark.parametrize(
    ("package", "name"), [(package, name) for package in PUBLIC for name in sorted(PUBLIC[package])]
)
def test_every_public_name_is_there(package: str, name: str) -> None:
    assert getattr(importlib.import_module(package), name) is not None
