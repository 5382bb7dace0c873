"""Jobs from outside: submit, watch, cancel, save. `Job` is what the command line and Python programs share."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import redis

from blobstore import BlobCorruptError, BlobNotFoundError
from tasks import handoff as states
from tasks.admission import admit_waiting, check_room, estimate_bytes
from tasks.config import Settings
from tasks.continuity import write_continuity
from tasks.errors import JobFailedError, JobStateError, ServerError, SpecError
from tasks.garbage import Garbage, Sweeper
from tasks.image import IMAGE_MIME, read_image
from tasks.jobs import new_job_id
from tasks.output import film_report, write_film
from tasks.reading import check_job_id
from tasks.records import FINISHED, FROM_OUTSIDE, Handoff, JobStatus
from tasks.runtime import Runtime, check_model_folders
from tasks.spec import JobSpec, check_spec, load_spec
from tasks.travel import read_state, record_of_outside

log = logging.getLogger(__name__)
POLL_S = 0.2
SECOND_LOOK_S = 2.0


@lru_cache(maxsize=4)
def deployment(settings: Settings) -> Runtime:
    """The connections of this process to one deployment."""
    return Runtime(settings, patient=False)


class Job:
    """One job of a deployment."""

    def __init__(self, job_id: str, *, settings: Settings | None = None) -> None:
        self.id = check_job_id(job_id)
        self._room = deployment(settings or Settings.from_env())

    def status(self) -> JobStatus:
        """Where the job stands.

        Raises:
            JobNotFoundError: no such job.
        """
        return self._room.jobs.status(self.id)

    def exists(self) -> bool:
        """Whether the deployment has a record of this job."""
        return self._room.jobs.exists(self.id)

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
        was = self._room.jobs.stop(self.id, "cancelled", "cancelled by a person")
        if was in FINISHED:
            raise JobStateError(f"job {self.id} is {was} already")

    def pause(self) -> None:
        """Hand out no more of the job's work; a segment under way is still finished, and what is done stays.

        Raises:
            JobNotFoundError: no such job. JobStateError: it has ended or is paused already.
        """
        was = self._room.jobs.pause(self.id)
        if was not in ("queued", "running"):
            raise JobStateError(f"job {self.id} is {was} already")

    def resume(self) -> None:
        """Go on with a paused job, within a few seconds.

        Raises:
            JobNotFoundError: no such job. JobStateError: it is not paused.
        """
        was = self._room.jobs.resume(self.id)
        if was != "paused":
            raise JobStateError(f"job {self.id} is {was}; only a paused job can be resumed")

    def retry(self) -> None:
        """Take up again, where it ended, a job that failed, or one that is done and whose film was lost.

        Raises:
            JobNotFoundError: no such job. JobStateError: it is neither.
        """
        status = self.status()
        lost = status.film is not None and status.film.blob_id not in self._room.blobs
        if self._room.jobs.revive(self.id, "done" if lost else "failed") != ("done" if lost else "failed"):
            raise JobStateError(f"job {self.id} is {status.state}; only a failed job can be tried again")
        _begin(self._room)

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
        return write_continuity(self._film(), self._room.jobs.timings(self.id), Path(folder))

    def _film(self) -> bytes:
        status = self.status()
        if status.film is None:
            raise JobStateError(f"job {self.id} is {status.state}; only a job that is done has a film")
        try:
            return self._room.blobs.get(status.film.blob_id)
        except (BlobNotFoundError, BlobCorruptError):
            raise JobStateError(
                f"the film of job {self.id} is not whole in the blob store any more; `longtake retry` joins it again"
            ) from None

    def report(self) -> dict[str, Any]:
        """What `film.json` says: the film, and for every committed segment its seed, prompt, times and blobs."""
        return film_report(self._room.jobs, self.id)

    def state(self, segment: int) -> dict[str, Any]:
        """The continuation state after `segment` (from 0) with its arrays inline: `kind` and `payload`.

        Raises:
            JobStateError: that segment is not committed.
        """
        self.status()
        found = self._room.jobs.handoff(self.id, segment) if segment >= 0 else None
        if found is None:
            raise JobStateError(f"job {self.id} has no committed segment {segment}")
        envelope = states.hydrate(found.state, self._room.blobs).to_continuation_state()
        return {"kind": envelope.kind, "payload": envelope.payload}

    def forget(self) -> None:
        """Delete the record of an ended job, and free its blobs.

        Raises:
            JobNotFoundError: no such job. JobStateError: it has not ended.
        """
        self.status()
        self._room.jobs.delete(self.id)
        self._room.blobs.release(self.id)


def submit(
    spec: JobSpec | Mapping[str, Any] | Path | str,
    *,
    from_state: Path | Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    job_id: str | None = None,
) -> Job:
    """Queue a job. `spec` is a spec, a mapping or a file; `from_state` a state to go on from (a mapping or a file).

    Raises:
        SpecError: a spec, a state or an image that cannot be. RoomError: it needs more than the whole blob budget.
        ServerError, redis.RedisError: no server to queue it on.
    """
    if not isinstance(spec, JobSpec):
        spec = check_spec(spec) if isinstance(spec, Mapping) else load_spec(Path(spec))
    job = Job(job_id or new_job_id(), settings=settings)
    room = job._room
    spec = spec.with_absolute_paths()  # workers run elsewhere
    check_model_folders(spec.model or room.settings.model, spec.loras, room.settings)
    if from_state is not None and spec.segments[0].transition == "cut":
        raise SpecError("segments.0.transition: a job that goes on from a state cannot begin with a cut")
    if from_state is not None and spec.image is not None:
        raise SpecError("image: a job that goes on from a state begins with that state's frames; leave one of them out")
    image = read_image(spec)
    needs = estimate_bytes(spec)
    check_room(needs, room.jobs.budget_bytes() or room.settings.blob_budget_bytes)
    start: Handoff | None = None
    if from_state is not None:
        envelope = from_state if isinstance(from_state, Mapping) else read_state(Path(from_state))
        start = record_of_outside(dict(envelope), spec, room.blobs, owner=job.id)
    if image is not None:
        spec = spec.model_copy(update={"image": room.keep(job.id, image, IMAGE_MIME)})
    model = spec.model or room.settings.model
    if not room.jobs.create(job.id, spec, model=model, needs_bytes=needs, start=start):
        raise JobStateError(f"there is a job {job.id} already")
    _begin(room)
    return job


def _begin(room: Runtime) -> None:
    """Have a job begin at once; where blobs have a budget, or something is amiss, the workers see to it soon."""
    if room.jobs.budget_bytes() or room.settings.blob_budget_bytes:
        return
    try:
        admit_waiting(room.jobs, room.publisher, None)
    except (ServerError, redis.RedisError) as error:
        log.warning("the job is queued, but its first message is not sent yet: %s", error)


def list_jobs(*, settings: Settings | None = None) -> list[JobStatus]:
    """Every job of the deployment, oldest first."""
    return list(deployment(settings or Settings.from_env()).jobs.statuses())


def collect_garbage(*, dry_run: bool, grace_s: float, settings: Settings | None = None) -> Garbage:
    """Free what no job needs, or only tell what it is; see `tasks.garbage`. grace_s: LONGTAKE_BLOB_GRACE_S at most."""
    room = deployment(settings or Settings.from_env())
    grace_s = min(grace_s, room.settings.blob_grace_s)
    sweeper = Sweeper(room.jobs, room.blobs, retention_s=room.settings.retention_s)
    if dry_run:
        return sweeper.look(grace_s=grace_s)
    ended, _ = sweeper.sweep()
    time.sleep(SECOND_LOOK_S)
    found = sweeper.collect(grace_s=grace_s)
    return replace(found, jobs=[*ended, *found.jobs])


def raise_unless_done(status: JobStatus) -> None:
    """Raise JobFailedError for a job that ended without a film."""
    if status.state == "done":
        return
    if status.state == "cancelled":
        raise JobFailedError(f"job {status.job_id} was cancelled")
    where = "" if status.failed_segment in (None, FROM_OUTSIDE) else f" at segment {status.failed_segment}"
    tries = f" after {status.attempts} attempt{'s' if status.attempts != 1 else ''}" if status.attempts else ""
    raise JobFailedError(f"job {status.job_id} failed{where}{tries}: {status.reason}")
