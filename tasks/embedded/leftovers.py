"""Unfinished renders under LONGTAKE_HOME."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tasks.embedded.locks import locked
from tasks.errors import JobStateError
from tasks.settings import Settings


@dataclass(frozen=True, slots=True)
class Leftover:
    """An unfinished render. bytes: the size of its files."""

    folder: Path
    bytes: int


def unfinished_renders(settings: Settings) -> list[Leftover]:
    """The renders that were interrupted, or are running."""
    folders = sorted(path for path in (settings.home / "renders").glob("*") if path.is_dir())
    return [Leftover(folder, sum(_size(path) for path in folder.rglob("*"))) for folder in folders]


def delete_renders(renders: list[Leftover]) -> list[Leftover]:
    """Delete those that no process is rendering; returns them. The same command then starts from the beginning."""
    deleted = []
    for render in renders:
        try:
            with locked(render.folder / "lock", "it", folder=render.folder):
                shutil.rmtree(render.folder)
        except (JobStateError, OSError):
            continue
        deleted.append(render)
    return deleted


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
