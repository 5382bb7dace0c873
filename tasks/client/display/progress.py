"""Shows the progress of a job: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from tasks.field_errors import counted, escaped
from tasks.jobs.reading.waits import Wait
from tasks.jobs.records import JobStatus
from tasks.jobs.records import Progress as Reported
from tasks.jobs.units import JobState

AskWait = Callable[[], Wait | None]
PLAIN_EVERY_S = 1.0
WAIT_EVERY_S = 2.0


@dataclass(slots=True)
class Forecast:
    """Estimates the remaining time from the speed since the first progress.

    The start of a worker does not count.
    """

    _first: float | None = None
    _since: tuple[float, float] | None = None

    def seconds_left(self, status: JobStatus, now: float) -> float | None:
        """Seconds until the last segment is rendered; None while unknown."""
        done = share_done(status)
        if self._first is None:
            self._first = done
        if self._since is None:
            if done > self._first:
                self._since = (now, done)
            return None
        then, before = self._since
        return None if done <= before else (now - then) / (done - before) * (1 - done)


def share_done(status: JobStatus) -> float:
    """The rendered share of the job, 0 to 1."""
    steps = status.steps_done if status.committed < status.segments else 0.0
    return min(1.0, (status.rendered + steps) / max(1, status.segments))


def describe(status: JobStatus, seconds_left: float | None = None, wait: Wait | None = None) -> str:
    """The state and progress of a job in a few words, or what it waits for."""
    if status.finished:
        return status.state
    rendered = rendered_of(status)
    if status.state == JobState.PAUSED:
        return f"paused · {rendered}"
    takes = f"{_takes_in_work(status, wait)} · " if status.takes_due else ""
    if status.state == JobState.AWAITING_APPROVAL:
        return f"awaiting approval of segment {status.committed - 1} · {takes}{rendered}"
    if status.state == JobState.OPEN:
        return f"open: waits for segments · {takes}{rendered}"
    if status.film is not None and status.takes_due:
        return _takes_in_work(status, wait)
    if status.committed == status.segments:
        return f"{rendered} · {wait or 'joining the film'}"
    if not status.admitted:
        return f"waiting for room for {status.needs_bytes:,} bytes of blobs · {rendered}"
    if wait is not None:
        return f"{wait} · {rendered}"
    if status.state == JobState.QUEUED:
        return f"waiting for a worker · {rendered}"
    in_work = "; ".join(_segment_in_work(one) for one in status.in_work) or f"segment {status.committed}"
    text = f"{in_work} · {rendered}"
    return text if seconds_left is None else f"{text} · about {clock(seconds_left)} to go"


def _takes_in_work(status: JobStatus, wait: Wait | None) -> str:
    steps = [step_of(one) for one in status.take_progress[:1]]
    waits = [] if steps or wait is None else [str(wait)]
    return " · ".join([f"rendering {counted(status.takes_due, 'take')}", *steps, *waits])


def rendered_of(status: JobStatus) -> str:
    """`3 of 8 segments rendered`."""
    return f"{status.rendered} of {counted(status.segments, 'segment')} rendered"


def _segment_in_work(progress: Reported) -> str:
    steps = f", {step_of(progress)}" if progress.steps else ""
    return f"segment {progress.index}{steps}"


def step_of(progress: Reported) -> str:
    """`step 3 of 8`."""
    return f"step {progress.step} of {progress.steps}"


def clock(seconds: float) -> str:
    """`seconds` as m:ss or h:mm:ss."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


class ProgressDisplay:
    """Writes progress to stderr; stdout is for results."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """Write one line."""
        self._console.print(escaped(text), markup=False, soft_wrap=True)

    def follow(self, statuses: Iterable[JobStatus], waiting: AskWait = lambda: None) -> None:
        """Show each status as it arrives, until there are no more. waiting: asked for what the job waits for."""
        asked = _AskedSometimes(waiting)
        if self._console.is_terminal:
            self._follow_with_bar(statuses, asked)
        else:
            self._follow_in_lines(statuses, asked)

    def _follow_with_bar(self, statuses: Iterable[JobStatus], waiting: AskWait) -> None:
        forecast = Forecast()
        columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}", markup=False))
        with Progress(*columns, console=self._console, transient=True) as bar:
            row = bar.add_task("starting", total=1.0)
            for status in statuses:
                left = forecast.seconds_left(status, time.monotonic())
                bar.update(row, completed=share_done(status), description=describe(status, left, waiting()))

    def _follow_in_lines(self, statuses: Iterable[JobStatus], waiting: AskWait) -> None:
        forecast = Forecast()
        shown, shown_at, rendered = "", 0.0, -1
        for status in statuses:
            now = time.monotonic()
            left = forecast.seconds_left(status, now)
            wait = waiting()
            text = describe(status, left, wait)
            news = describe(status) + (f"{wait.reason}{wait.jobs_ahead}" if wait else "")
            due = now - shown_at >= PLAIN_EVERY_S or status.rendered != rendered or status.finished
            if due and news != shown:
                self.say(text)
                shown, shown_at, rendered = news, now, status.rendered


class _AskedSometimes:
    """What a job waits for, asked every two seconds."""

    def __init__(self, ask: AskWait) -> None:
        self._ask = ask
        self._asked_at = -WAIT_EVERY_S
        self._wait: Wait | None = None

    def __call__(self) -> Wait | None:
        now = time.monotonic()
        if now - self._asked_at >= WAIT_EVERY_S:
            self._asked_at, self._wait = now, self._ask()
        return self._wait
