"""Optional packages of longtake, which pyproject.toml lists by extra."""

from __future__ import annotations


def install_line(extra: str) -> str:
    """The command that adds the packages of `extra`, such as gguf, to a clone of longtake."""
    return f'`.venv/bin/pip install --editable ".[{extra}]" --constraint constraints.txt` in longtake\'s folder'
