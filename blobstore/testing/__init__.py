"""Conformance suites that any blob store can run; see `blobstore.testing.conformance`."""

from __future__ import annotations

from blobstore.testing.conformance import SHORT_S, SMALL_BYTES, BlobStoreConformance, FullStoreConformance

__all__ = ["SHORT_S", "SMALL_BYTES", "BlobStoreConformance", "FullStoreConformance"]
