"""Answers with a file whose bytes never change: whole, in parts, or not at all if the client has it already."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from tasks.server.answers import invalid

_RANGE = re.compile(r"\s*(\d*)-(\d*)\s*")


class StoredFile(FileResponse):
    """A file of `BlobFiles`. Its `ETag` follows from its content, so any server goes on with a download that broke off.

    `Range`, `If-Range` and `If-None-Match` are as in RFC 9110: a malformed range is ignored, one behind the end is 416.
    """

    def __init__(
        self, path: Path, *, media_type: str, filename: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self._tag = f'"{path.name}"'
        super().__init__(
            path,
            headers={"ETag": self._tag, **(headers or {})},
            media_type=media_type,
            filename=filename,
            content_disposition_type="inline",
        )

    def set_stat_headers(self, stat_result: os.stat_result) -> None:
        """The length alone: the time of a copy on this disk says nothing about the film."""
        self.headers["content-length"] = str(stat_result.st_size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = MutableHeaders(raw=list(scope["headers"]))
        if _names(asked.get("if-none-match", ""), self._tag):
            kept = {name: self.headers[name] for name in ("etag", "cache-control") if name in self.headers}
            await Response(status_code=304, headers=kept)(scope, receive, send)
            return
        if not self._is_range_used(asked):
            del asked["range"]
        del asked["if-range"]
        await super().__call__({**scope, "headers": asked.raw}, receive, send)

    def _is_range_used(self, asked: MutableHeaders) -> bool:
        if asked.get("if-range", self._tag) != self._tag:
            return False
        unit, _, ranges = asked.get("range", "").partition("=")
        found = [_RANGE.fullmatch(part) for part in ranges.split(",")]
        if unit.strip().lower() != "bytes" or not all(found):
            return False
        places = [(part[1], part[2]) for part in found if part]
        if any(not (first or last) or (first and last and int(first) > int(last)) for first, last in places):
            return False
        size = Path(self.path).stat().st_size
        if any(int(first) >= size if first else not int(last) for first, last in places):
            reach = {"Content-Range": f"bytes */{size}"}
            raise invalid(f"Range: beyond the end, at byte {size}", status=416, code="range", headers=reach)
        return True


def _names(tags: str, tag: str) -> bool:
    """Whether an `If-None-Match` names this tag; weak ones count."""
    return tags.strip() == "*" or tag in (part.strip().removeprefix("W/") for part in tags.split(","))
