"""Where a film and its summary go: checked before anything is rendered."""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tasks.client.files import make_folder, naming_errors, write_new, write_whole
from tasks.errors import OutputError

REPORT_FILES = ("seams.json", "seams.png", "sheet.png")
"""The files of a continuity report."""
STREAM = "-"  # as a file name: standard output
FILM_SUFFIX = ".mp4"
SUMMARY_SUFFIX = ".report.json"
LONGEST_NAME_BYTES = 220  # file systems allow 255, and temporary files next to it have longer names


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
        with naming_errors(film):
            is_folder = film.is_dir()
        if is_folder:
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

    def check(self, job_id: str, inputs: Iterable[Path] = (), *, report: Path | None = None) -> None:
        """Check that the film of `job_id` may be written. Writes nothing, and makes no folder.

        inputs: files it is made from. report: the folder of its continuity report.

        Raises:
            OutputError: it would replace an input or the film of another job, or cannot be written; says why.
        """
        if self.film is None:
            _check_stream()
        self._check_names(report)
        for path in self.paths:
            with naming_errors(path):
                self._check_file(path, job_id, inputs)
        for name in REPORT_FILES if report is not None else ():
            path = Path(report or "", name)
            with naming_errors(path):
                _check_writable(path)
                for given in [*inputs, *self.paths]:
                    if _is_same(path, given):
                        raise OutputError(f"{path}, a file of the report, would replace {given}; choose another folder")

    def _check_names(self, report: Path | None) -> None:
        names = [*self.paths, *([report] if report else [])]
        for path in names:
            if len(os.fsencode(path.name)) > LONGEST_NAME_BYTES:
                raise OutputError(f"{path.name:.40}... is too long a name; the limit is {LONGEST_NAME_BYTES} bytes")
        if self.film and self.summary and _is_same(self.film, self.summary):
            raise OutputError(f"{self.film}: film and summary need two names")
        for path in self.paths:
            inside = next((name for name in names if name is not path and path.absolute() in _places(name)), None)
            if inside is not None:
                raise OutputError(f"{inside}: {path} is a file of this film, so it cannot be a folder")

    def _check_file(self, path: Path, job_id: str, inputs: Iterable[Path]) -> None:
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

    def write_clip(self, clip: bytes) -> None:
        """Write the clip of a segment in place of a film, without a summary.

        Raises:
            OutputError: it exists and is not to be replaced, or cannot be written.
        """
        if self.film is None:
            sys.stdout.buffer.write(clip)
            sys.stdout.buffer.flush()
            return
        _check_writable(self.film)
        write_new(self.film, clip, overwrite=self.overwrite)

    def write(self, film: bytes, summary: dict[str, Any]) -> None:
        """Write film and summary, both or neither.

        Raises:
            OutputError: the disk is full, or a folder cannot be written.
        """
        files = {self.film: film} if self.film else {}  # named last: it then has its summary, and can be replaced
        if self.summary:
            files[self.summary] = (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode()
        for path in files:
            make_folder(path.parent)
        write_whole(files)
        if self.film is None:
            _write_stream(film)


def _check_stream() -> None:
    if sys.stdout is None:  # closed by whoever started this process
        raise OutputError("standard output is closed; write the film to a file, such as -o film.mp4")
    if sys.stdout.isatty():
        raise OutputError("standard output is a terminal; redirect it, or name a file, such as -o film.mp4")


def _write_stream(film: bytes) -> None:
    try:
        sys.stdout.buffer.write(film)
        sys.stdout.buffer.flush()
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # the reader has closed it, and wants no message
        raise OutputError(f"standard output cannot be written: {error.strerror or error}") from None


def _places(path: Path) -> list[Path]:
    """`path` and the folders that it is in."""
    whole = path.absolute()
    return [whole, *whole.parents]


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one.absolute() == other.absolute()


def _check_writable(path: Path) -> None:
    """Check that a file can be made in the folder of `path`, or in the nearest one that exists."""
    existing = next(folder for folder in path.absolute().parents if folder.exists() or folder.is_symlink())
    if not existing.is_dir():
        raise OutputError(f"{path} cannot be written: {existing} is not a folder")
    with tempfile.TemporaryFile(dir=existing):
        pass
