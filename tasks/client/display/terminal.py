"""Writes results to the terminal: lines that cannot act on it, and JSON."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable
from typing import Any

import click

from tasks.field_errors import LINE_CHARACTERS, escaped


def accept_any_text() -> None:
    """Show a character that the terminal's encoding lacks as an escape, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show_line(text: str, *, err: bool = False, limit: int = LINE_CHARACTERS) -> None:
    """Write one line to standard output, or to standard error."""
    click.echo(escaped(text, limit), err=err)


def show_lines(lines: Iterable[str], *, err: bool = False) -> None:
    """Write lines to standard output, or to standard error."""
    for line in lines:
        show_line(line, err=err)


def show_json(value: Any, *, indent: int | None = 2) -> None:
    """Write `value` as JSON in ASCII, on which no terminal acts."""
    click.echo(json.dumps(value, indent=indent))
