"""`Job`: one job of a deployment, as the command line and Python programs use it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from blobstore import BlobCorruptError, BlobNotFoundError
from tasks.client.edits.fork import fork_job
from tasks.client.edits.methods import GivenSpec, JobEdits, given_spec
from tasks.client.films.output import FilmOutput
from tasks.client.films.report import write_report
from tasks.client.films.summary import film_summary
from tasks.client.takes import TakeStatus, cascade, choose_take, clip_of, hidden_takes, list_takes, retake_segments
from tasks.deployment import Deployment
from tasks.errors import JobFailedError, JobNotFoundError, JobStateError, WaitTimeoutError
from tasks.field_errors import counted
from tasks.jobs import state_wire
from tasks.jobs.keys import check_job_id
from tasks.jobs.reading.waits import Wait
from tasks.jobs.records import JobStatus
from tasks.jobs.units import START_INDEX, JobState, rendered_text
from tasks.maintenance.admission import admit_now
from tasks.messaging.tracing import tracing
from tasks.settings import Settings

POLL_S = 0.2
MOST_SHOWN = 5


class Job(JobEdits):
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
        """The job's state and progress.

        Raises:
            JobNotFoundError: no such job.
        """
        return self._deployment.jobs.status(self.id)

    def waiting(self) -> Wait | None:
        """What the job waits for: its turn, a worker that loads or is silent, or any worker. None while it is at work.

        Raises:
            JobNotFoundError: no such job.
        """
        return self._deployment.jobs.waits([self.status()]).get(self.id)

    def exists(self) -> bool:
        """Whether the deployment has a record of this job."""
        return self._deployment.jobs.exists(self.id)

    def watch(self, *, poll_s: float = POLL_S, every_poll: bool = False) -> Iterator[JobStatus]:
        """The status now and after every change (or at every poll), until the job ends."""
        last = None
        while True:
            status = self.status()
            if every_poll or status != last:
                yield status
                last = status
            if status.finished:
                return
            time.sleep(poll_s)

    def wait(self, timeout: float | None = None) -> Self:
        """Return when the film is done. timeout: seconds to wait at most; the job goes on.

        Raises:
            JobFailedError: the job failed or was cancelled; says which segment and why.
            WaitTimeoutError: it is not done after `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        for status in self.watch(every_poll=True):
            if status.finished:
                raise_unless_done(status)
            elif end is not None and time.monotonic() > end:
                raise WaitTimeoutError(f"job {self.id} is {status.state} after {timeout:g} s; it goes on")
        return self

    def cancel(self) -> None:
        """Stop the job; committed segments stay until its retention ends.

        Raises:
            JobNotFoundError: no such job. JobStateError: it has already ended.
        """
        was = self._deployment.jobs.stop(self.id, JobState.CANCELLED, "cancelled by user")
        if was.is_final:
            raise JobStateError(f"job {self.id} is already {was}")
        tracing.job_ended(self.id, self._deployment.jobs)

    def pause(self) -> None:
        """Pause the job: running segments finish, no new ones start.

        Raises:
            JobNotFoundError: no such job. JobStateError: it has ended or is already paused.
        """
        was = self._deployment.jobs.pause(self.id)
        if was not in (JobState.QUEUED, JobState.RUNNING):
            raise JobStateError(f"job {self.id} is already {was}")

    def resume(self) -> None:
        """Resume a paused job; it continues within a few seconds.

        Raises:
            JobNotFoundError: no such job. JobStateError: it is not paused.
        """
        was = self._deployment.jobs.resume(self.id)
        if was != JobState.PAUSED:
            raise JobStateError(f"job {self.id} is {was}; only a paused job can be resumed")

    def retry(self) -> None:
        """Retry a failed job from the failed segment, or rebuild the lost film of a job that is done.

        Raises:
            JobNotFoundError: no such job. JobStateError: it has neither failed nor lost its film.
        """
        status = self.status()
        is_done = status.state == JobState.DONE
        is_film_lost = is_done and status.film is not None and status.film.blob_id not in self._deployment.blobs
        ended_as = JobState.DONE if is_film_lost else JobState.FAILED
        if self._deployment.jobs.revive(self.id, ended_as) != ended_as:
            raise JobStateError(f"job {self.id} is {status.state}; only a failed job can be retried")
        admit_now(self._deployment.jobs, self._deployment.publisher, self._deployment.settings)

    def fork(self, after: int, spec: GivenSpec | None = None, *, idempotency_key: str | None = None) -> Self:
        """Queue a new job that shares the segments up to `after` (from 0) and renders those that follow in `spec`.

        Nothing of them is copied or rendered again, and each job keeps them by itself. spec: one of the whole film, in
        which those up to `after` do not count; default: the rest of this job. Title and seed may differ, all other
        fields of the job are the same. idempotency_key: as for `submit`.

        Raises:
            JobNotFoundError: no such job. JobStateError: that segment is not committed, or its blobs were lost.
            SpecError: an invalid spec, a field that differs, or nothing to render. Others as `tasks.submit`.
        """
        wanted = None if spec is None else given_spec(spec)
        fork_id = fork_job(self._deployment, self.id, after=after, spec=wanted, idempotency_key=idempotency_key)
        return type(self)(fork_id, settings=self._deployment.settings)

    def retake(
        self,
        segment: int,
        *,
        last: int | None = None,
        prompt: str | None = None,
        seed: int | None = None,
        takes: int = 1,
        idempotency_key: str | None = None,
    ) -> list[int]:
        """Render a segment (from 0) again, `takes` times, and return the numbers of these takes; `choose` one later.

        Each starts from the state before the segment and leads into what the next one began from, so that no other
        segment is rendered again. last: render the segments up to this one as one take, one after the other; only the
        end of the last one is given. prompt, seed: instead of each segment's; default: its prompt, and another seed for
        each take. Of several takes with a given seed, each has the next one, and so has each of their segments. The job
        runs until they are rendered. idempotency_key: any text that names this request: if it is repeated, nothing more
        is rendered, and other takes are refused.

        Raises:
            JobNotFoundError: no such job. JobStateError: a segment is not rendered, or the job ended before all were.
            SpecError: an invalid prompt, seed, last segment or number. RoomError: the blob budget has no room for them.
        """
        return retake_segments(
            self._deployment,
            self.id,
            range(segment, 1 + (segment if last is None else last)),
            prompt=prompt,
            seed=seed,
            takes=takes,
            idempotency_key=idempotency_key,
        )

    def cascade(self, segment: int, *, prompt: str | None = None, seed: int | None = None) -> Self:
        """Queue a new job that shares the segments before this one (from 0), and renders it and all after it anew.

        This job and its film stay. prompt, seed: see `retake`; here without a seed the segment keeps its own.

        Raises:
            JobNotFoundError, JobStateError, SpecError: see `retake`. Others as `tasks.submit`.
        """
        fork_id = cascade(self._deployment, self.id, segment, prompt=prompt, seed=seed)
        return type(self)(fork_id, settings=self._deployment.settings)

    def takes(self) -> list[TakeStatus]:
        """The takes of every segment that was retaken, in order; take 0 is what was rendered first.

        Raises:
            JobNotFoundError: no such job.
        """
        return list_takes(self._deployment, self.id)

    def choose(self, segment: int, take: int, *, last: int | None = None) -> bool:
        """Have the film show a take of a segment (from 0); 0: what was rendered first. The film is joined anew.

        Only clips that show another take, or cross into one, are made again. The old film stays until the new one is
        done. A take of several segments is shown whole; when another take is chosen for some of them, the others show
        again what was rendered first. last: up to this segment; a take other than 0 must be of exactly these. Returns
        whether the film showed another take before.

        Raises:
            JobNotFoundError: no such job. SpecError: `last` is before `segment`. JobStateError: there is no such take,
            it is of other segments or not rendered, or the next segment continues another one and it does not lead into
            that. RoomError: the blob budget has no room for the film.
        """
        return choose_take(self._deployment, self.id, range(segment, 1 + (segment if last is None else last)), take)

    def save_clip(self, segment: int, out: Path | str, *, take: int | None = None) -> Path:
        """Write the MP4 of a segment (from 0) as the film shows it, or of one take by itself, to `out`.

        Replaces an existing file.

        Raises:
            JobNotFoundError: no such job. JobStateError: there is no such clip yet, or it was lost. OutputError: `out`
            cannot be written.
        """
        FilmOutput.of(out, overwrite=True).write_clip(self.clip(segment, take=take))
        return Path(out)

    def clip(self, segment: int, *, take: int | None = None) -> bytes:
        """The MP4 of a segment (from 0); see `save_clip`."""
        return clip_of(self._deployment, self.id, segment, take)

    def keep(self, seconds: float | None = None) -> None:
        """Keep the job and its blobs for so long from now, also beyond its retention; default: until `unkeep`.

        Raises:
            JobNotFoundError: no such job.
        """
        self._deployment.jobs.keep(self.id, seconds)

    def unkeep(self) -> None:
        """Keep the job no longer than its retention.

        Raises:
            JobNotFoundError: no such job.
        """
        self._deployment.jobs.unkeep(self.id)

    def save(self, out: Path | str) -> Path:
        """Write the film to `out`, and its summary next to it as `NAME.report.json`: both whole, or neither.

        Replaces existing files.

        Raises:
            JobStateError: the film is not done. OutputError: `out` does not end in .mp4, or cannot be written.
        """
        self.write_film(FilmOutput.of(out, overwrite=True))
        return Path(out)

    def write_film(self, output: FilmOutput) -> dict[str, Any]:
        """Write the film and its summary to `output`; returns the summary.

        Raises:
            JobStateError: the film is not done. OutputError: it cannot be written, or would replace another film.
        """
        film, summary = self._film(), film_summary(self._deployment.jobs, self.id, of_film=True)
        output.check(self.id)
        output.write(film, summary)
        return summary

    def write_report(self, folder: Path | str) -> list[str]:
        """Write a report on how well the film's segments join: seams.json, seams.png and sheet.png in `folder`.

        Returns what is wrong, in words.

        Raises:
            JobStateError: the film is not done. OutputError: a file cannot be written.
        """
        film, status = self._film(), self.status()
        count = status.film.segments if status.film and status.film.segments else status.segments
        places = self._deployment.jobs.places(self.id)
        shown = [place for index, place in places.items() if index < count]
        return write_report(film, shown, Path(folder), takes_of=hidden_takes(self._deployment, self.id))

    def summary(self) -> dict[str, Any]:
        """The film summary: the film, and seed, prompt, times and blobs of every committed segment."""
        return film_summary(self._deployment.jobs, self.id)

    def warnings(self, segment: int) -> list[str]:
        """What is wrong with the prompt of a committed segment (from 0), one sentence each; empty if nothing is."""
        handoff = self._deployment.jobs.handoff(self.id, segment)
        return [] if handoff is None else list(handoff.warnings)

    def state(self, segment: int) -> dict[str, Any]:
        """The continuation state after `segment` (from 0) with its arrays inline: `kind` and `payload`.

        It is that of the take that the next segment continues, else of the one that the film shows.

        Raises:
            JobStateError: that segment is not committed.
        """
        committed = self._deployment.jobs.contents(self.id).committed
        if not 0 <= segment < len(committed.handoffs):
            rendered = rendered_text(committed.rendered(segment))
            raise JobStateError(f"job {self.id} has no state after segment {segment}: up to there, {rendered}")
        handoff = committed.handed_on(segment)
        envelope = state_wire.decode(handoff.state, self._deployment.blobs).to_continuation_state()
        return {"kind": envelope.kind, "payload": envelope.payload}

    def forget(self) -> None:
        """Delete the record of an ended job, and free its blobs.

        Raises:
            JobNotFoundError: no such job. JobStateError: it has not ended.
        """
        self.status()
        self._deployment.jobs.delete(self.id)
        self._deployment.blobs.release(self.id)

    def _film(self) -> bytes:
        status = self.status()
        if status.film is None:
            raise JobStateError(f"job {self.id} is {status.state}; only a job that was done has a film")
        try:
            return self._deployment.blobs.get(status.film.blob_id)
        except (BlobNotFoundError, BlobCorruptError):
            raise JobStateError(
                f"the film of job {self.id} is missing or damaged in the blob store; `longtake retry` rebuilds it"
            ) from None


def find_job(text: str, *, settings: Settings | None = None) -> Job:
    """The job with this id, or the only one whose id begins with `text`.

    Raises:
        JobNotFoundError: there is none, or more than one.
    """
    job = Job(text, settings=settings)
    if job.exists():
        return job
    found = job._deployment.jobs.ids_starting_with(text)
    if len(found) > 1:
        some = ", ".join(found[:MOST_SHOWN]) + (", ..." if len(found) > MOST_SHOWN else "")
        raise JobNotFoundError(f"{len(found)} jobs begin with {text!r}: {some}; give more of the id")
    if found:
        job.id = found[0]
    return job


def raise_unless_done(status: JobStatus) -> None:
    """Raise JobFailedError for a job that ended without a film."""
    if status.state == JobState.DONE:
        return
    if status.state == JobState.CANCELLED:
        raise JobFailedError(f"job {status.job_id} was cancelled")
    where = "" if status.failed_segment in (None, START_INDEX) else f" at segment {status.failed_segment}"
    tries = f" after {counted(status.attempts, 'attempt')}" if status.attempts else ""
    raise JobFailedError(f"job {status.job_id} failed{where}{tries}: {status.reason}")
