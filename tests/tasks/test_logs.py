"""Log lines: fields, formats, and secrets that must not appear."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from blobstore.redis.urls import mask_urls, shown_url
from tasks.field_errors import is_shown
from tasks.logs import LogFormatter, formatter_for, log_context, secrets_in
from tasks.settings import Settings


def line(formatter: LogFormatter, message: str, *args: object, **extra: object) -> str:
    record = logging.getLogger("tasks").makeRecord("tasks", logging.INFO, "f", 1, message, args, None, extra=extra)
    return formatter.format(record)


def test_a_text_line_carries_the_context_and_its_own_fields() -> None:
    text = LogFormatter(as_json=False)
    with log_context(job="abc", unit="segment 3", worker="host:7", epoch=0):
        found = line(text, "committed", seconds=1.23456, attempt=None)
    assert found.endswith('INFO/MainProcess] committed job=abc unit="segment 3" worker=host:7 epoch=0 seconds=1.235')
    assert "job=" not in line(text, "idle")


def test_a_json_line_is_one_object() -> None:
    with log_context(job="abc"):
        found = json.loads(line(LogFormatter(as_json=True), "line\n%d", 2, seconds=0.5))
    assert {
        "level": "INFO",
        "logger": "tasks",
        "event": "line\n2",
        "job": "abc",
        "seconds": 0.5,
    }.items() <= found.items()
    assert found["time"].endswith("+00:00")


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:s3cret@host:6379/0",
        "redis://:s3cret@host",
        "redis://:my#s3cret@host/0",
        "redis://s3cret@host",
        "redis://host/0?password=s3cret",
        "redis://host/0?db=1&password=s3cret&x=1",
        "unix:///run/redis.sock?password=s3cret",
        "rediss://:s3%63ret@host",
    ],
)
def test_no_password_appears_wherever_it_stands_in_a_url(url: str) -> None:
    decoded = url.replace("%63", "c")
    for shown in (mask_urls(f"cannot reach {url}: refused"), mask_urls(decoded), shown_url(url)):
        assert "s3cret" not in shown
        assert "s3%63ret" not in shown
    assert "host" in mask_urls(url) or "redis.sock" in mask_urls(url)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_password_of_the_settings_is_masked_outside_urls_too(as_json: bool) -> None:
    settings = Settings(redis_url="redis://:hun%74er2@h/0", log="json" if as_json else "text")
    formatter = formatter_for(settings)
    try:
        raise ValueError("AUTH hunter2 failed")
    except ValueError:
        record = logging.getLogger("tasks").makeRecord(
            "tasks", logging.ERROR, "f", 1, "login with %s or hun%%74er2", ("hunter2",), sys.exc_info()
        )
    found = formatter.format(record)
    assert "AUTH *** failed" in found
    assert "hunter2" not in found
    assert "hun%74er2" not in found


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("redis://host/0", []),
        ("redis://u:pw1@host", ["pw1"]),
        ("redis://:p%40w1@host", ["p%40w1", "p@w1"]),
        ("redis://host?password=pw2", ["pw2"]),
        ("memory:", []),
    ],
)
def test_the_secrets_of_a_url(url: str, secrets: list[str]) -> None:
    assert sorted(secrets_in(url)) == sorted(secrets)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:pw@h:1/0", "redis://h:1/0"),
        ("redis://h:1/0?password=a@b", "redis://h:1/0"),
        ("unix:///run/r.sock?db=2", "unix:///run/r.sock"),
    ],
)
def test_a_url_is_shown_without_user_password_and_query(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize("as_json", [False, True])
def test_text_of_a_user_forges_no_line_and_does_not_act_on_a_terminal(as_json: bool) -> None:
    # Given a message, a field and an error with a forged line and an escape sequence
    forged = "a\n[2026-01-01T00:00:00.000+00:00: INFO/MainProcess] committed\x1b]0;x\x07\u202e"
    try:
        raise ValueError(forged)
    except ValueError:
        record = logging.getLogger("tasks").makeRecord(
            "tasks", logging.ERROR, "f", 1, "model %s", (forged,), sys.exc_info(), extra={"reason": forged}
        )
    # When
    found = LogFormatter(as_json=as_json).format(record)
    # Then
    lines = found.split("\n")
    assert len([text for text in lines if not text.startswith("  ")]) == 1
    assert all(is_shown(text) for text in lines)
    assert len(lines) > 3 or as_json
    assert as_json is False or json.loads(found)["event"] == f"model {forged}"
