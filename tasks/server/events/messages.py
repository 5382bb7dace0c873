"""Events as server-sent events: encoded once, however many clients get them."""

from __future__ import annotations

import json
from functools import cached_property

from fastapi.sse import format_sse_event

from tasks.jobs.events import Event
from tasks.server.http.answers import without_paths


class Message:
    """An event, and the bytes of it that are sent."""

    def __init__(self, event: Event) -> None:
        self.event = event

    @cached_property
    def of_job(self) -> bytes:
        """For those who follow its job."""
        return self._encoded(self.event.id_in_job)

    @cached_property
    def of_all(self) -> bytes:
        """For those who follow all jobs."""
        return self._encoded(self.event.id)

    def _encoded(self, event_id: str) -> bytes:
        return format_sse_event(id=event_id, event=self.event.kind, data_str=self._data)

    @cached_property
    def _data(self) -> str:
        data = {"job": self.event.job_id, "at": self.event.at, **self.event.data}
        if isinstance(data.get("reason"), str):
            data["reason"] = without_paths(data["reason"])
        try:
            return json.dumps(data, allow_nan=False)
        except ValueError:  # numbers that JSON does not have become null
            return json.dumps(json.loads(json.dumps(data), parse_constant=lambda name: None))
