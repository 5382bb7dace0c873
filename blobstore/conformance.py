"""The name of `blobstore.testing` in 0.1."""

from __future__ import annotations

from blobstore.testing import SHORT_S, SMALL_BYTES, BlobStoreConformance, FullStoreConformance

__all__ = ["SHORT_S", "SMALL_BYTES", "BlobStoreConformance", "FullStoreConformance"]
