"""Where a film and its summary go: checked before anything is rendered."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tasks.client.files import write_whole
from tasks.errors import OutputError

STREAM = "-"  # as a file name: standard output
FILM_SUFFIX = ".mp4"
SUMMARY_SUFFIX = ".report.json"


@dataclass(frozen=True, slots=True)
class FilmOutput:
    """The files of one film.

    film: the MP4; None is standard output. summary: the JSON, if any. overwrite: also over the film of another job.
    """

    film: Path | None
    summary: Path | None
    overwrite: bool = False

    @classmethod
    def of(cls, out: Path | str, *, summary: Path | str | None = None, overwrite: bool = False) -> Self:
        """The film `out`, `-` being standard output, and its summary, by default `NAME.report.json` next to it.

        Raises:
            OutputError: `out` does not end in .mp4.
        """
        if str(out) == STREAM:
            return cls(None, Path(summary) if summary else None, overwrite)
        film = Path(out)
        if film.is_dir():
            raise OutputError(f"{film} is a folder; name a file, such as -o {film / 'film.mp4'}")
        if film.suffix.lower() != FILM_SUFFIX:
            raise OutputError(
                f"{film}: the film is an MP4; name it {film.with_suffix(FILM_SUFFIX)}, or - for standard output"
            )
        return cls(film, Path(summary) if summary else film.with_suffix(SUMMARY_SUFFIX), overwrite)

    @property
    def paths(self) -> list[Path]:
        """The files to write."""
        return [path for path in (self.film, self.summary) if path]

    def check(self, job_id: str, inputs: Iterable[Path] = ()) -> None:
        """Create the folders, and check that the film of `job_id` may be written. `inputs` are files it is made from.

        Raises:
            OutputError: it would replace an input or the film of another job, or cannot be written; says why.
        """
        if self.film and self.summary and _is_same(self.film, self.summary):
            raise OutputError(f"{self.film}: film and summary need two names")
        for path in self.paths:
            for given in inputs:
                if _is_same(path, given):
                    raise OutputError(f"{path} is an input of this film; choose another output")
            if path.exists() and not path.is_file():
                raise OutputError(f"{path} exists and is not a regular file; choose another name")
            _check_writable(path)
            if path.exists() and not self.overwrite and self._job_id() != job_id:
                raise OutputError(f"{path} exists, and not from this job; choose another name, or use --force")

    def _job_id(self) -> str | None:
        """The job whose film is there now, by its summary."""
        try:
            return str(json.loads(self.summary.read_bytes())["job_id"]) if self.summary else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def write(self, film: bytes, summary: dict[str, Any]) -> None:
        """Write film and summary, both or neither.

        Raises:
            OutputError: the disk is full, or a folder cannot be written.
        """
        files = {self.film: film} if self.film else {}  # named last: it then has its summary, and can be replaced
        if self.summary:
            files[self.summary] = (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode()
        write_whole(files)
        if self.film is None:
            sys.stdout.buffer.write(film)
            sys.stdout.buffer.flush()


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one.absolute() == other.absolute()


def _check_writable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except FileExistsError:
        raise OutputError(f"{path} cannot be written: {path.parent} is not a folder") from None
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None
