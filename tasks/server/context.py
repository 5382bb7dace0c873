"""What every handler of the server uses."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Annotated, BinaryIO, cast

from fastapi import Depends, Request

from tasks.client.job import Job
from tasks.client.submit import iterate_waiting
from tasks.deployment import Deployment
from tasks.errors import JobStateError
from tasks.jobs.keys import check_job_id
from tasks.jobs.outbox import Outbox
from tasks.jobs.reading.waits import Wait
from tasks.jobs.records import ClipRecord, JobStatus
from tasks.jobs.units import JobState, segments_text
from tasks.server.events.hub import EventHub
from tasks.server.films.blob_files import BlobFiles
from tasks.server.films.joins import Joins
from tasks.server.films.live import LiveFilms
from tasks.server.films.reports import Reports
from tasks.server.http.answers import invalid
from tasks.server.http.paging import Page, page_of
from tasks.server.names import NameTable
from tasks.settings import Settings

WaitingJob = tuple[JobStatus, Wait | None]
ALL = 10**9  # a limit has jobs listed newest first


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The deployment that a server shows, and what it keeps in memory and on disk while it runs."""

    settings: Settings
    deployment: Deployment
    names: NameTable
    hub: EventHub
    files: BlobFiles
    live: LiveFilms
    joins: Joins
    reports: Reports
    outbox: Outbox

    def at(self, path: str) -> str:
        """A path of this server as its callers see it: a proxy may put a prefix before all."""
        return f"{self.settings.root_path}{path}"

    def job(self, job_id: str) -> Job:
        """A job of the deployment, to be closed after use."""
        return Job(job_id, settings=self.settings)

    def status(self, job_id: str) -> JobStatus:
        """The status of a job. JobNotFoundError: there is none."""
        return self.deployment.jobs.status(check_job_id(job_id))

    def check_segment(self, job_id: str, segment: int) -> None:
        """Check that a job has this segment. JobNotFoundError: there is no such job. RequestError: it has not."""
        count = self.status(job_id).segments
        if segment >= count:
            known = segments_text(range(count)) if count else "none yet"
            message = f"job {job_id} has no segment {segment}; it has {known}"
            raise invalid(message, status=404, code="not_found", param="segment")

    def waiting_jobs(self, states: Collection[JobState] = (), *, after: str | None, limit: int) -> Page[WaitingJob]:
        """The newest jobs, newest first, each with what it waits for. after: the last one of the page before."""
        found = iterate_waiting(settings=self.settings, states=states, limit=ALL, after=after)
        return page_of(found, limit=limit)

    def clip(self, job_id: str, segment: int) -> BinaryIO:
        """The file with the clip of a segment, to be closed after use.

        Raises:
            RequestError: the job has no such segment. JobStateError: it has no clip yet. Errors of the blob store.
        """
        return self.files.opened(self._clips(job_id, segment)[segment].blob_id)

    @contextmanager
    def clip_and_before(self, job_id: str, segment: int) -> Iterator[list[BinaryIO]]:
        """The files with the clip of the segment before, if there is one, and of a segment. Raises: as `clip`."""
        clips = self._clips(job_id, segment)
        wanted = [clips[index] for index in (segment - 1, segment) if index in clips]
        with ExitStack() as files:
            yield [files.enter_context(self.files.opened(clip.blob_id)) for clip in wanted]

    def _clips(self, job_id: str, segment: int) -> Mapping[int, ClipRecord]:
        """The clips of a job, which has that of this segment. Raises: as `clip`."""
        self.check_segment(job_id, segment)
        clips = self.deployment.jobs.clips(job_id)
        if segment not in clips:
            raise JobStateError(f"job {job_id} has no clip of segment {segment} yet")
        return clips


async def _context(request: Request) -> ServerContext:  # FastAPI would call another one in a thread
    return cast("ServerContext", request.app.state.context)


Context = Annotated[ServerContext, Depends(_context)]
