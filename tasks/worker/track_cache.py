"""The given sound of the film whose segments this process rendered last, so that each need not fetch it."""

from __future__ import annotations

from collections.abc import Callable

from ltx2.media.sources.slices import Track


class TrackCache:
    """One track, by its blob id."""

    def __init__(self) -> None:
        self._blob_id, self._track = "", Track(b"")

    def get(self, blob_id: str, fetch: Callable[[str], bytes]) -> Track:
        """The track of a blob. fetch: gets its bytes; what it raises passes through."""
        if blob_id != self._blob_id:
            self._track = Track(fetch(blob_id))
            self._blob_id = blob_id
        return self._track
