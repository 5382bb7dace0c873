"""Distributes new events to everyone who listens: one reader of Redis, however many listeners."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence

import redis

from tasks.errors import ServerError
from tasks.jobs.events import BEGINNING, Event, EventKind, EventReader, LostAttempt, is_later
from tasks.server.events.messages import Message

log = logging.getLogger(__name__)
WAIT_S = 1.0
RETRY_S = 1.0
GATHER_S = 0.05
"""After some events, so that those that come meanwhile wake all listeners once, and not once each."""
PAUSE_S = 15.0
"""As FastAPI has it; proxies end connections on which nothing comes."""
QUEUE_LENGTH = 1000
PAGE = 500


class StreamCutError(ServerError):
    """A stream has no more events though others may come: its client has to ask again."""


class Listener:
    """Collects the new events of a job, or of all jobs. One that is too slow is cut off, and may ask again."""

    def __init__(self, job_id: str | None) -> None:
        self.job_id = job_id
        self._collected: list[Message] = []
        self._changed = asyncio.Event()
        self._is_cut_off = False

    @property
    def is_over(self) -> bool:
        """Whether all was taken, and nothing will follow."""
        return self._is_cut_off and not self._collected

    def offer(self, message: Message | None) -> None:
        """Give it an event; None ends it."""
        if self._is_cut_off:
            return
        if message is None or len(self._collected) == QUEUE_LENGTH:
            self._is_cut_off = True
        else:
            self._collected.append(message)
        self._changed.set()

    async def take(self, wait_s: float) -> list[Message]:
        """All that was collected, oldest first. If that is nothing, wait so long for something."""
        if not self._collected and not self._is_cut_off:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
        taken, self._collected = self._collected, []
        return taken


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
            for message in map(Message, events):
                self._last = message.event.id
                self._count(message.event)
                for listener in tuple(self._listeners):
                    if listener.job_id in (None, message.event.job_id):
                        listener.offer(message)
            await asyncio.sleep(GATHER_S if events else 0)

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

    async def events(self, job_id: str | None, after: str) -> AsyncIterator[Event]:
        """The events of `messages`, one by one, without an end."""
        async with contextlib.aclosing(self.messages(job_id, after)) as found:
            async for messages in found:
                for message in messages:
                    yield message.event

    async def messages(
        self, job_id: str | None, after: str, is_over: Callable[[], bool] = lambda: False
    ) -> AsyncGenerator[Sequence[Message]]:
        """The events after this id, of a job or of all, those that are kept first, then new ones as they come.

        They come as many at a time as there are; none after each PAUSE_S in which there is none.

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
                    if page:
                        yield [Message(event) for event in page]
                        after = page[-1].id
                    elif over:
                        return
                    is_stored = bool(page)
                taken = await listener.take(PAUSE_S)
                if listener.is_over and not taken:
                    raise StreamCutError("the server ends" if self._closing else "its client reads too slowly")
                found: list[Message] = []
                for message in taken:
                    event = message.event
                    event_id = event.id if job_id is None else event.id_in_job
                    if is_later(event_id, after):
                        after = event_id
                        found.append(message)
                        is_stored |= job_id is not None and event.kind.ends_job  # the job may be over now
                if found or not taken:
                    yield found

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
