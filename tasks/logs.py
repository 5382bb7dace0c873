"""Log lines: one per event, each with job, unit, worker and epoch where known; text or JSON; without secrets."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from urllib.parse import parse_qsl, unquote, urlsplit

from blobstore.redis.urls import MASK, mask_urls
from tasks.errors import ServerError
from tasks.field_errors import LINE_CHARACTERS, escaped
from tasks.settings import Settings

FIELDS = ("job", "unit", "segment", "worker", "epoch", "fence", "attempt", "seconds", "bytes", "reason")
"""The fields of a line, in this order. A call passes them in `extra`, `log_context` sets them for a block."""

TRACE_CHARACTERS = 20_000

_context: ContextVar[Mapping[str, object]] = ContextVar("log_context", default=MappingProxyType({}))


@contextmanager
def log_context(**fields: object) -> Iterator[None]:
    """Add `fields` to every log line of this thread inside the block."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


class LogFormatter(logging.Formatter):
    """Formats lines as text, or as one JSON object each. Masks `secrets` everywhere, also in tracebacks."""

    def __init__(self, *, as_json: bool, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._as_json = as_json
        self._secrets = [re.escape(secret) for secret in sorted(set(secrets), key=len, reverse=True) if secret]

    def format(self, record: logging.LogRecord) -> str:
        """The line of `record`."""
        fields = {**_context.get()} | {name: value for name, value in record.__dict__.items() if name in FIELDS}
        known = {name: self._field(fields[name]) for name in FIELDS if fields.get(name) is not None}
        error = self._masked(self._trace(record))
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        message = self._masked(record.getMessage())
        if self._as_json:
            line: dict[str, object] = {"time": time, "level": record.levelname, "logger": record.name, "event": message}
            line |= known | ({"error": error[-TRACE_CHARACTERS:]} if error else {})
            return json.dumps(line, default=str)
        pairs = "".join(f" {name}={_quoted(value)}" for name, value in known.items())
        lines = [f"[{time}: {record.levelname}/{record.processName}] {escaped(message)}{pairs}"]
        # indented, so that no line of an error looks like one of the log
        lines += [f"  {escaped(part)}" for part in error[-TRACE_CHARACTERS:].split("\n") if error]
        return "\n".join(lines)

    def _trace(self, record: logging.LogRecord) -> str:
        """The traceback of a line; of a server that cannot be used, only what is wrong with it."""
        raised = record.exc_info[1] if record.exc_info else None
        if isinstance(raised, ServerError):
            return str(raised)
        return self.formatException(record.exc_info) if record.exc_info else ""

    def _field(self, value: object) -> object:
        return self._masked(value)[:LINE_CHARACTERS] if isinstance(value, str) else value

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = re.sub(secret, MASK, text)
        return mask_urls(text)


def formatter_for(settings: Settings) -> LogFormatter:
    """The formatter that LONGTAKE_LOG names, which masks the secrets of the URLs in `settings`."""
    urls = [settings.redis_url, settings.blobs]
    return LogFormatter(as_json=settings.log == "json", secrets=[secret for url in urls for secret in secrets_in(url)])


def secrets_in(url: str) -> list[str]:
    """The passwords in `url`, as written and decoded: in the user part, and in `password` and `username` options."""
    parts = urlsplit(url)
    raw = parts.netloc.rpartition("@")[0].partition(":")[2]
    options = [value for name, value in parse_qsl(parts.query) if name in ("password", "sentinel_password")]
    return [secret for secret in {raw, unquote(raw), *options} if len(secret) > 2]


def _quoted(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return escaped(json.dumps(text, ensure_ascii=False) if re.search(r'[\s"]', text) else text)


class SaidOnce:
    """Remembers what was logged, so that what is repeated is logged once."""

    LIMIT = 1000

    def __init__(self) -> None:
        self._said: dict[str, None] = {}

    def is_new(self, text: str) -> bool:
        """Whether this was not said before; from now on it was."""
        is_new = text not in self._said
        self._said[text] = None
        if len(self._said) > self.LIMIT:
            del self._said[next(iter(self._said))]
        return is_new

    def forget(self, text: str) -> None:
        """It has ended: say it the next time."""
        self._said.pop(text, None)
