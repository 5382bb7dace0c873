"""Conformance suites for blob stores; see `blobstore.testing.conformance`."""

from __future__ import annotations

from blobstore.testing.conformance import SHORT_S, SMALL_BYTES, BlobStoreConformance, FullStoreConformance

__all__ = ["SHORT_S", "SMALL_BYTES", "BlobStoreConformance", "FullStoreConformance"]
