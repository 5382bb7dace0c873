"""Distributes new events to everyone who listens: one reader of Redis, however many listeners."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

import redis

from tasks.errors import ServerError
from tasks.jobs.events import BEGINNING, Event, EventKind, EventReader, LostAttempt, is_later

log = logging.getLogger(__name__)
WAIT_S = 1.0
RETRY_S = 1.0
QUEUE_LENGTH = 1000
PAGE = 500


class StreamCutError(ServerError):
    """A stream has no more events though others may come: its client has to ask again."""


class Listener:
    """Receives the new events of a job, or of all jobs. One that is too slow is cut off, and may ask again."""

    def __init__(self, job_id: str | None) -> None:
        self.job_id = job_id
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE_LENGTH)
        self._cut_off = False

    def offer(self, event: Event | None) -> None:
        """Give it an event; None ends it."""
        if self._cut_off:
            return
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self._cut_off = True

    async def next(self) -> Event | None:
        """The next event; None at the end, or after the last that fitted."""
        if self._cut_off and self._queue.empty():
            return None
        return await self._queue.get()


class EventHub:
    """Reads the stream of all jobs once for all listeners. `run` must be running."""

    def __init__(self, reader: EventReader) -> None:
        self._reader = reader
        self._listeners: set[Listener] = set()
        self._last = BEGINNING
        self._closing = False
        self.counts: Counter[EventKind] = Counter()
        """How many events of each kind were distributed."""
        self.lost_attempts: Counter[LostAttempt] = Counter()
        """How many attempts came to nothing, by what became of them."""

    async def start(self) -> None:
        """Begin with events that come from now on; older ones are read from their streams."""
        self._last = await asyncio.to_thread(self._reader.newest_id)

    @property
    def newest_id(self) -> str:
        """The id, in the stream of all jobs, of the newest event that was distributed."""
        return self._last

    async def run(self) -> None:
        """Distribute events until the task is cancelled; an outage is waited for."""
        is_out = False
        while not self._closing:
            try:
                events = await asyncio.to_thread(self._reader.after, self._last, wait_s=WAIT_S, count=PAGE)
            except redis.RedisError as error:
                if not is_out:
                    log.warning("events are waited for: %s", error)
                is_out = True
                await asyncio.sleep(RETRY_S)
                continue
            if is_out:
                log.info("events come again")
            is_out = False
            for event in events:
                self._last = event.id
                self._count(event)
                for listener in tuple(self._listeners):
                    if listener.job_id in (None, event.job_id):
                        listener.offer(event)

    def _count(self, event: Event) -> None:
        self.counts[event.kind] += 1
        if event.kind == EventKind.ATTEMPT:
            with contextlib.suppress(ValueError):  # a later version may know other reasons
                self.lost_attempts[LostAttempt(str(event.data.get("why")))] += 1

    def close(self) -> None:
        """End all listeners and `run`."""
        self._closing = True
        for listener in tuple(self._listeners):
            listener.offer(None)

    async def events(
        self, job_id: str | None, after: str, is_over: Callable[[], bool] = lambda: False
    ) -> AsyncIterator[Event]:
        """The events after this id, of a job or of all, those that are kept first, then new ones as they come.

        is_over: whether there will be no new ones; it is called in a thread.

        Raises:
            StreamCutError: the listener is too slow, or the server ends.
        """
        with self._listening(job_id) as listener:  # before the stream is read, so that none is missed in between
            newest = await asyncio.to_thread(self._reader.newest_id, job_id)
            if is_later(after, newest):  # of another stream, before a loss of data: nothing would ever be later
                after = newest
            is_stored = True
            while True:
                while is_stored:
                    over = await asyncio.to_thread(is_over)  # before the stream is read: all events are in it
                    page = await asyncio.to_thread(self._reader.after, after, job_id=job_id, count=PAGE)
                    for event in page:
                        yield event
                        after = event.id
                    if over and not page:
                        return
                    is_stored = bool(page)
                if (new := await listener.next()) is None:
                    raise StreamCutError("the server ends" if self._closing else "its client reads too slowly")
                new_id = new.id if job_id is None else new.id_in_job
                if is_later(new_id, after):
                    after = new_id
                    yield new
                    is_stored = job_id is not None and new.kind.ends_job  # the job may be over now

    @contextlib.contextmanager
    def _listening(self, job_id: str | None) -> Iterator[Listener]:
        listener = Listener(job_id)
        self._listeners.add(listener)
        if self._closing:
            listener.offer(None)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
