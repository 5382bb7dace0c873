"""Renews the lease of a claim in a thread, however long a single step of the work takes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Self

import redis

from tasks.jobs.records import Claim, Progress
from tasks.jobs.store import JobStore

log = logging.getLogger(__name__)


class Lease:
    """A claim whose lease a thread renews, three times per lease. Used as a context manager."""

    def __init__(self, jobs: JobStore, claim: Claim, lease_s: float) -> None:
        self.claim = claim
        self.lost = False
        self._jobs = jobs
        self._interval = lease_s / 3
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_done, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def start(self) -> None:
        """Start renewing."""
        self._thread.start()

    def end(self) -> None:
        """Stop renewing. Does not wait for a renewal in progress, which may hang while the server is out."""
        self._done.set()

    @contextmanager
    def until_handed_over(self) -> Iterator[None]:
        """Start renewing, and hand the lease over in this block: its new holder ends it. An error here ends it."""
        self.start()
        try:
            yield
        except BaseException:
            self.end()
            raise

    def renew(self, *, engine: bool | None = None, progress: Progress | None = None) -> bool:
        """Renew now; False if the claim is lost, and from then on."""
        claim = self.claim
        if not self.lost and not self._jobs.renew(claim, engine=engine, progress=progress):
            self.lost = claim is self.claim  # otherwise `move_to` replaced it meanwhile
        return not self.lost

    def in_engine(self) -> AbstractContextManager[None]:
        """Mark the engine call: a crash inside this block counts as an attempt."""
        return self._engine(True)

    def out_of_engine(self) -> AbstractContextManager[None]:
        """Within `in_engine`, mark other work: a crash inside this block does not count as an attempt."""
        return self._engine(False)

    @contextmanager
    def _engine(self, inside: bool) -> Iterator[None]:
        self.renew(engine=inside)
        try:
            yield
        finally:
            self.renew(engine=not inside)

    def move_to(self, claim: Claim) -> None:
        """Renew `claim` instead: the holder of a committed segment continues with its clip."""
        self.claim = claim
        self.lost = False  # the thread may have tried to renew the old claim just after its commit

    def _renew_until_done(self) -> None:
        while not self._done.wait(self._interval):
            try:
                self.renew()
            except redis.RedisError as error:
                log.warning("cannot renew the lease of job %s, %s: %s", self.claim.job_id, self.claim.unit, error)
