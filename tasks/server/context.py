"""What every handler of the server uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from tasks.client.job import Job
from tasks.deployment import Deployment
from tasks.jobs.keys import check_job_id
from tasks.jobs.outbox import Outbox
from tasks.jobs.records import JobStatus
from tasks.server.blob_files import BlobFiles
from tasks.server.event_hub import EventHub
from tasks.server.live import LiveFilms
from tasks.server.parts import PartTable
from tasks.settings import Settings


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The deployment that a server shows, and what it keeps in memory and on disk while it runs."""

    settings: Settings
    deployment: Deployment
    parts: PartTable
    hub: EventHub
    files: BlobFiles
    live: LiveFilms
    outbox: Outbox

    def job(self, job_id: str) -> Job:
        """A job of the deployment, to be closed after use."""
        return Job(job_id, settings=self.settings)

    def status(self, job_id: str) -> JobStatus:
        """The status of a job. JobNotFoundError: there is none."""
        return self.deployment.jobs.status(check_job_id(job_id))


def _context(request: Request) -> ServerContext:
    return cast("ServerContext", request.app.state.context)


Context = Annotated[ServerContext, Depends(_context)]
