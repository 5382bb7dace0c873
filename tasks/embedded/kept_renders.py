"""Renders whose data is kept under LONGTAKE_HOME: unfinished ones, and finished ones within limits of age and size."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.client.display.pace import Pace
from tasks.embedded.inputs import RenderInputs, read_note
from tasks.embedded.locks import locked
from tasks.errors import JobStateError
from tasks.settings import Settings


@dataclass(frozen=True, slots=True)
class KeptRender:
    """A render's folder. bytes: the size of its files. film: None for standard output, and if its note is damaged.

    finished_at: seconds since the epoch, None while its film is not written.
    """

    folder: Path
    bytes: int
    film: str | None
    finished_at: float | None

    def __str__(self) -> str:
        film = f" of {self.film}" if self.film else ""
        return f"{'unfinished' if self.finished_at is None else 'finished'} render{film}: {self.folder}"


def kept_renders(settings: Settings) -> list[KeptRender]:
    """All that are kept, and those that are running."""
    return [_kept(path) for path in sorted((settings.home / "renders").glob("*")) if path.is_dir()]


def expired_renders(settings: Settings, *, now: float | None = None) -> list[KeptRender]:
    """The finished ones that are older than LONGTAKE_RETENTION_S, or beyond LONGTAKE_RENDERS_BUDGET_BYTES.

    The newest ones that have room stay.
    """
    now, room, expired = time.time() if now is None else now, settings.renders_budget_bytes, []
    finished = [(render.finished_at, render) for render in kept_renders(settings) if render.finished_at is not None]
    for finished_at, render in sorted(finished, key=lambda pair: pair[0], reverse=True):
        if now - finished_at > settings.retention_s or render.bytes > room:
            expired.append(render)
        else:
            room -= render.bytes
    return expired


def pace_of_renders(settings: Settings, inputs: RenderInputs) -> Pace | None:
    """The pace of the newest finished render that was made from the same, except prompts, seeds and start image."""
    notes = [read_note(render.folder) for render in kept_renders(settings) if render.finished_at is not None]
    same = [note for note in notes if note.work == inputs.work and note.segment_s is not None]
    newest = max(same, key=lambda note: note.finished_at or 0.0, default=None)
    return Pace(newest.segment_s, str(newest.film)) if newest and newest.segment_s is not None else None


def delete_renders(renders: Iterable[KeptRender]) -> list[KeptRender]:
    """Delete those that no process uses; returns them. The same command then starts from the beginning."""
    deleted = []
    for render in renders:
        try:
            with locked(render.folder / "lock", "it", folder=render.folder):
                shutil.rmtree(render.folder)
        except (JobStateError, OSError):
            continue
        deleted.append(render)
    return deleted


def _kept(folder: Path) -> KeptRender:
    note = read_note(folder)
    return KeptRender(folder, sum(_size(path) for path in folder.rglob("*")), note.film, note.finished_at)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
