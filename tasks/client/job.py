"""Jobs from outside: submit, watch, cancel, save. `Job` is what the command line and Python programs share."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from blobstore import BlobCorruptError, BlobNotFoundError
from tasks.client.files import write_film
from tasks.client.film_report import write_continuity
from tasks.client.film_summary import film_summary
from tasks.deployment import Deployment
from tasks.errors import JobFailedError, JobStateError
from tasks.jobs import state_wire as states
from tasks.jobs.keys import check_job_id
from tasks.jobs.records import FINISHED, FROM_OUTSIDE, JobStatus
from tasks.maintenance.admission import admit_now
from tasks.settings import Settings

log = logging.getLogger(__name__)
POLL_S = 0.2


class Job:
    """One job of a deployment. A context manager: leaving it closes the connections, not the job.

    settings: those of the deployment; default: from the environment.

    Raises:
        JobNotFoundError: `job_id` is not a job id.
    """

    def __init__(self, job_id: str, *, settings: Settings | None = None) -> None:
        self.id = check_job_id(job_id)
        self._deployment = Deployment(settings or Settings.from_env())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a later call opens them again."""
        self._deployment.close()

    def status(self) -> JobStatus:
        """Where the job stands.

        Raises:
            JobNotFoundError: no such job.
        """
        return self._deployment.jobs.status(self.id)

    def exists(self) -> bool:
        """Whether the deployment has a record of this job."""
        return self._deployment.jobs.exists(self.id)

    def watch(self, *, poll_s: float = POLL_S, every_poll: bool = False) -> Iterator[JobStatus]:
        """The status now and after every change (or at every poll), until the job has ended."""
        last = None
        while True:
            status = self.status()
            if every_poll or status != last:
                yield status
                last = status
            if status.finished:
                return
            time.sleep(poll_s)

    def wait(self) -> Self:
        """Return when the film is done.

        Raises:
            JobFailedError: the job failed or was cancelled; says which segment and why.
        """
        for status in self.watch():
            if status.finished:
                raise_unless_done(status)
        return self

    def cancel(self) -> None:
        """Stop the job; what was committed stays until its retention passes.

        Raises:
            JobNotFoundError: no such job. JobStateError: it has ended already.
        """
        was = self._deployment.jobs.stop(self.id, "cancelled", "cancelled by a person")
        if was in FINISHED:
            raise JobStateError(f"job {self.id} is {was} already")

    def pause(self) -> None:
        """Hand out no more of the job's work; a segment under way is still finished, and what is done stays.

        Raises:
            JobNotFoundError: no such job. JobStateError: it has ended or is paused already.
        """
        was = self._deployment.jobs.pause(self.id)
        if was not in ("queued", "running"):
            raise JobStateError(f"job {self.id} is {was} already")

    def resume(self) -> None:
        """Go on with a paused job, within a few seconds.

        Raises:
            JobNotFoundError: no such job. JobStateError: it is not paused.
        """
        was = self._deployment.jobs.resume(self.id)
        if was != "paused":
            raise JobStateError(f"job {self.id} is {was}; only a paused job can be resumed")

    def retry(self) -> None:
        """Take up again, where it ended, a job that failed, or one that is done and whose film was lost.

        Raises:
            JobNotFoundError: no such job. JobStateError: it is neither.
        """
        status = self.status()
        lost = status.film is not None and status.film.blob_id not in self._deployment.blobs
        if self._deployment.jobs.revive(self.id, "done" if lost else "failed") != ("done" if lost else "failed"):
            raise JobStateError(f"job {self.id} is {status.state}; only a failed job can be tried again")
        admit_now(self._deployment.jobs, self._deployment.publisher, self._deployment.settings)

    def save(self, out: Path | str) -> Path:
        """Write the film to `out` and its report beside it as JSON; nothing is half-written.

        Raises:
            JobStateError: the film is not done yet. OutputError: `out` cannot be written.
        """
        return write_film(Path(out), self._film(), self.report())

    def continuity(self, folder: Path | str) -> list[str]:
        """Write into `folder` how well the film's segments join: seams.json, seams.png and sheet.png.

        Returns what is wrong, in words.

        Raises:
            JobStateError: the film is not done yet. OutputError: a file cannot be written.
        """
        return write_continuity(self._film(), self._deployment.jobs.timings(self.id), Path(folder))

    def _film(self) -> bytes:
        status = self.status()
        if status.film is None:
            raise JobStateError(f"job {self.id} is {status.state}; only a job that is done has a film")
        try:
            return self._deployment.blobs.get(status.film.blob_id)
        except (BlobNotFoundError, BlobCorruptError):
            raise JobStateError(
                f"the film of job {self.id} is not whole in the blob store any more; `longtake retry` joins it again"
            ) from None

    def report(self) -> dict[str, Any]:
        """What `film.json` says: the film, and for every committed segment its seed, prompt, times and blobs."""
        return film_summary(self._deployment.jobs, self.id)

    def state(self, segment: int) -> dict[str, Any]:
        """The continuation state after `segment` (from 0) with its arrays inline: `kind` and `payload`.

        Raises:
            JobStateError: that segment is not committed.
        """
        self.status()
        found = self._deployment.jobs.handoff(self.id, segment) if segment >= 0 else None
        if found is None:
            raise JobStateError(f"job {self.id} has no committed segment {segment}")
        envelope = states.hydrate(found.state, self._deployment.blobs).to_continuation_state()
        return {"kind": envelope.kind, "payload": envelope.payload}

    def forget(self) -> None:
        """Delete the record of an ended job, and free its blobs.

        Raises:
            JobNotFoundError: no such job. JobStateError: it has not ended.
        """
        self.status()
        self._deployment.jobs.delete(self.id)
        self._deployment.blobs.release(self.id)


def raise_unless_done(status: JobStatus) -> None:
    """Raise JobFailedError for a job that ended without a film."""
    if status.state == "done":
        return
    if status.state == "cancelled":
        raise JobFailedError(f"job {status.job_id} was cancelled")
    where = "" if status.failed_segment in (None, FROM_OUTSIDE) else f" at segment {status.failed_segment}"
    tries = f" after {status.attempts} attempt{'s' if status.attempts != 1 else ''}" if status.attempts else ""
    raise JobFailedError(f"job {status.job_id} failed{where}{tries}: {status.reason}")
