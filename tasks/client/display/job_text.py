"""Jobs as the command line shows them: lines of text and JSON objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from tasks.client.display.progress import describe, rendered_of, step_of
from tasks.client.display.workers import describe_activity
from tasks.client.job import Job
from tasks.field_errors import counted, escaped
from tasks.jobs.queues import Priority
from tasks.jobs.reading.waits import Wait
from tasks.jobs.records import JobStatus
from tasks.jobs.units import START_INDEX, segments_text
from tasks.jobs.workers import WorkerList

PROMPT_CHARACTERS = 200
LIST_ROW = "{:16}  {:17}  {:>8}  {:19}  {}"
LIST_HEAD = LIST_ROW.format("job", "state", "segments", "created", "title")


def json_of(status: JobStatus, wait: Wait | None) -> dict[str, Any]:
    """A job of `longtake list --json`."""
    return asdict(status) | {"waiting": None if wait is None else {"text": str(wait), **asdict(wait)}}


def row_of(status: JobStatus, wait: Wait | None) -> str:
    """A row of `longtake list`."""
    created = _moment(status.created_at)
    notes = "; ".join(str(note) for note in (status.fork_of, wait) if note is not None)
    title = f"{status.title} ({notes})" if notes else status.title
    return LIST_ROW.format(status.job_id, status.state, f"{status.rendered}/{status.segments}", created, title)


def _moment(seconds: float) -> str:
    """A time since the epoch as local date and time."""
    return datetime.fromtimestamp(seconds).isoformat(" ", "seconds")


def full_json_of(job: Job, workers: WorkerList) -> Mapping[str, Any]:
    """The object of `longtake status --json`."""
    status = job.status()
    data = json_of(status, job.waiting()) | {"segments_committed": job.summary()["segments"]}
    return data | {"workers": [] if status.finished else [worker.name for worker in workers.of_job(job.id)]}


def lines_of(job: Job, workers: WorkerList) -> Iterator[str]:
    """The lines of `longtake status`."""
    status = job.status()
    yield f"{status.job_id}  {status.title}"
    text = describe(status, wait=job.waiting())
    text = text if text.startswith(status.state) else f"{status.state}: {text}"
    rendered = rendered_of(status)
    text = text if rendered in text else f"{text} · {rendered}"
    yield f"  {text} · {counted(status.clips, 'clip')}"
    if status.fork_of is not None:
        yield f"  {status.fork_of}"
    if status.priority != Priority.NORMAL:
        yield f"  priority: {status.priority}"
    if status.takes_due:
        yield f"  {counted(status.takes_due, 'take')} to be rendered"
    for take in job.takes():
        if take.reason is not None:
            yield f"  {take.name} failed: {escaped(take.reason)}"
        elif take.progress is not None:
            yield f"  {take.name}: segment {take.progress.index}, {step_of(take.progress)}"
    if status.kept:
        until = "it is released" if status.kept_until is None else _moment(status.kept_until)
        yield f"  kept until {until}"
    for worker in () if status.finished else workers.of_job(job.id):  # its last heartbeat may be older than the end
        yield f"  worker {worker.name}: {describe_activity(worker)}"
    if status.reason:
        where = "film" if status.failed_segment == START_INDEX else f"segment {status.failed_segment}"
        where = f"{where}, attempt {status.attempts}: " if status.attempts else ""
        yield f"  {where}{status.reason}"
    for failure in status.failures:
        yield f"    failed on {failure.worker}: {failure.reason}"
    segments = job.summary()["segments"]
    for segment in segments:
        prompt = escaped(segment["prompt"], PROMPT_CHARACTERS)
        shown = f"  take {segment['take']}" if "take" in segment else ""
        yield f"  segment {segment['index']}{shown}  {segment['engine_s']:.1f} s  seed {segment['seed']}  {prompt}"
    yield from _warnings(segments)


def _warnings(segments: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Each warning once, with the segments that it is about."""
    about: dict[str, list[int]] = {}
    for segment in segments:
        for warning in segment.get("warnings", []):
            about.setdefault(warning, []).append(segment["index"])
    for warning, indices in about.items():
        yield f"  warning, {segments_text(indices)}: {escaped(warning)}"
