"""Answers with a file whose bytes never change: whole, in parts, or not at all if the client has it already."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from tasks.server.http.answers import invalid

_RANGE = re.compile(r"(\d*)-(\d*)")
_MOST_DIGITS = 18
"""Of a number that is read; a longer one is behind the end of any file."""


class _Reader:
    """Reads an open file: what the kernel has in memory at once, the rest in a thread."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._place = 0

    async def seek(self, place: int) -> None:
        self._place = place

    async def read(self, size: int) -> bytes:
        wanted = min(size, max(0, os.fstat(self._file.fileno()).st_size - self._place))
        data = self._at_once(wanted)
        if data is None:
            data = await run_in_threadpool(os.pread, self._file.fileno(), wanted, self._place)
        self._place += len(data)
        return data

    def _at_once(self, size: int) -> bytes | None:
        buffer = bytearray(size)
        try:
            count = os.preadv(self._file.fileno(), [buffer], self._place, os.RWF_NOWAIT)
        except OSError:  # not in memory, or this kind of disk cannot tell
            return None
        return bytes(buffer) if count == size else None


class StoredFile(FileResponse):
    """An open file of `BlobFiles`, which is closed once it is sent.

    Its `ETag` follows from its content, so any server goes on with a download that broke off.

    `Range`, `If-Range` and `If-None-Match` are as in RFC 9110: a malformed `Range` is ignored. Ranges behind the end
    are left out; if all are, that is 416.
    """

    chunk_size = 256 * 1024
    """Most pieces are one chunk, and a client that reads nothing holds no more than one in memory."""

    def __init__(
        self, file: BinaryIO, *, media_type: str, filename: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self._file = file
        self._tag = f'"{Path(file.name).name}"'
        super().__init__(
            f"/proc/self/fd/{file.fileno()}",  # its name on disk may be gone
            headers={"ETag": self._tag, **(headers or {})},
            media_type=media_type,
            filename=filename,
            content_disposition_type="inline",
            stat_result=os.fstat(file.fileno()),
        )

    def set_stat_headers(self, stat_result: os.stat_result) -> None:
        """The length alone: the time of a copy on this disk says nothing about the film."""
        self.headers["content-length"] = str(stat_result.st_size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what was asked for."""
        with self._file:
            await self._answer(scope, receive, send)

    @asynccontextmanager
    async def _open_file(self) -> AsyncIterator[Any]:
        """The file as Starlette reads it, which would open it again, each time in a thread."""
        yield _Reader(self._file)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = MutableHeaders(raw=list(scope["headers"]))
        if _names(",".join(asked.getlist("if-none-match")), self._tag):
            kept = {name: self.headers[name] for name in ("etag", "cache-control") if name in self.headers}
            await Response(status_code=304, headers=kept)(scope, receive, send)
            return
        wanted = self._ranges(asked.get("range", "")) if asked.get("if-range", self._tag) == self._tag else []
        del asked["range"], asked["if-range"]
        if wanted:
            asked["range"] = "bytes=" + ",".join(wanted)
        await super().__call__({**scope, "headers": asked.raw}, receive, send)

    def _ranges(self, asked: str) -> list[str]:
        """Those of the ranges that name bytes of the file; none: it is sent whole.

        Raises:
            RequestError: all are behind the end.
        """
        unit, _, ranges = asked.partition("=")
        found = [_RANGE.fullmatch(part.strip()) for part in ranges.split(",") if part.strip()]
        if unit.strip().lower() != "bytes" or not found:
            return []
        size, wanted = os.fstat(self._file.fileno()).st_size, []
        for part in found:
            if part is None or part[0] == "-" or (all(part.groups()) and _number(part[1]) > _number(part[2])):
                return []
            if _number(part[1]) < size if part[1] else size and _number(part[2]):
                wanted.append("-".join(digits and str(_number(digits)) for digits in part.groups()))
        if not wanted:
            reach = {"Content-Range": f"bytes */{size}"}
            raise invalid(f"Range: beyond the end, at byte {size}", status=416, code="range", headers=reach)
        return wanted


def _number(digits: str) -> int:
    """The number that these digits are, or one that is as large for any file."""
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _MOST_DIGITS else int("9" * _MOST_DIGITS)


def _names(tags: str, tag: str) -> bool:
    """Whether an `If-None-Match` names this tag; weak ones count."""
    return tags.strip() == "*" or tag in (part.strip().removeprefix("W/") for part in tags.split(","))
