"""The newest states that this process rendered, so that the next segment need not fetch them."""

from __future__ import annotations

from ltx2 import LTX2ContinuationState

CACHED_STATES = 2


class StateCache:
    """The last two states that this process committed, by digest."""

    def __init__(self) -> None:
        self._states: dict[str, LTX2ContinuationState] = {}

    def put(self, digest: str, state: LTX2ContinuationState) -> None:
        """Keep `state`, and drop the oldest one."""
        self._states.pop(digest, None)
        self._states[digest] = state
        while len(self._states) > CACHED_STATES:
            del self._states[next(iter(self._states))]

    def get(self, digest: str) -> LTX2ContinuationState | None:
        """The state with this digest, or None."""
        return self._states.get(digest)
