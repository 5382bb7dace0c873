"""When a GPU began and ended to decode the sound of a segment."""

from __future__ import annotations

import time

import torch

from ltx2.model.codecs.host_copies import Checked, HostCopies, HostCopy


class SoundClock:
    """Notes when pictures and sound of an engine are complete, by events on its stream, which is not waited for.

    copies: of the engine; a copy starts when everything that its values need has been launched.
    """

    def __init__(self, copies: HostCopies, stream: torch.cuda.Stream | None) -> None:
        self._stream = stream
        self._events: dict[str, torch.cuda.Event] = {}
        self._at = 0.0
        self._start_copy = copies.start
        copies.start = self._noted  # type: ignore[method-assign]

    def start(self) -> None:
        """Begin a segment. The GPU must have nothing to do: this sets its clock by that of the host."""
        self._record("start")
        if self._stream is not None:
            self._events["start"].synchronize()
        self._at = time.time()

    def times(self) -> tuple[float, float]:
        """When the pictures of the last segment were complete, and its sound, in seconds since the epoch.

        AttributeError: it was not rendered on a GPU.
        """
        if "samples of sound" not in self._events:
            raise AttributeError("no sound was decoded on a GPU")
        start = self._events["start"]
        begun, ended = (start.elapsed_time(self._events[made]) for made in ("pixels", "samples of sound"))
        return self._at + begun / 1000, self._at + ended / 1000

    def _noted(self, checked: Checked) -> HostCopy:
        self._record(checked.made_from)
        return self._start_copy(checked)

    def _record(self, name: str) -> None:
        if self._stream is not None:
            event = torch.cuda.Event(enable_timing=True)
            event.record(self._stream)
            self._events[name] = event
