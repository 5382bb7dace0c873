"""Continuity reports of films: made when somebody asks, one at a time, and kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO, Literal

from ltx2.media.temporary import temporary_folder
from tasks.client.job import Job
from tasks.errors import JobStateError
from tasks.server.films.blob_files import FOLDERS, BlobFiles
from tasks.server.films.turns import Turns

ReportFile = Literal["seams.json", "seams.png", "sheet.png"]
FIGURES: ReportFile = "seams.json"
FILES: Mapping[ReportFile, str] = {FIGURES: "application/json", "seams.png": "image/png", "sheet.png": "image/png"}
"""The types of a report's files."""


class Reports:
    """The reports of a deployment's films."""

    def __init__(self, files: BlobFiles) -> None:
        self._files = files
        self._turns = Turns()

    def opened(self, job: Job, name: ReportFile) -> BinaryIO:
        """The file `name` of the report on a job's film, to be closed after use.

        Raises:
            JobNotFoundError: no such job. JobStateError: its film is not done, or was lost. MediaError: it is damaged.
            RequestError: too many wait for reports.
        """
        film = job.status().film
        if film is None:
            raise JobStateError(f"job {job.id} has no film yet; a report is about the film")
        made_of = " ".join([film.blob_id, *(str(take.clip) for take in job.takes())])  # the sheet shows all takes
        if (known := self._files.kept(f"{made_of} {name}")) is not None:
            return known  # without waiting for another report
        with self._turns.turn():
            if (known := self._files.kept(f"{made_of} {name}")) is not None:
                return known
            with temporary_folder(f"{FOLDERS}report-") as folder:
                job.write_report(folder)
                made = {file: (folder / file).read_bytes() for file in FILES}
            for file, data in made.items():
                if file != name:
                    self._files.keep(f"{made_of} {file}", data).close()
            return self._files.keep(f"{made_of} {name}", made[name])
