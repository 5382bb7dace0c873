"""Keeping the lease of a claim while its work goes on, however long a single step takes."""

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
    """A claim that a thread renews, three times per lease, until the block ends."""

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
        """Renew from now on."""
        self._thread.start()

    def end(self) -> None:
        """Renew no more. A renewal that is under way, perhaps on a server that is out, is not waited for."""
        self._done.set()

    @contextmanager
    def until_handed_over(self) -> Iterator[None]:
        """Renew from now on; who it is handed over to in this block ends that. When nobody takes it, it ends here."""
        self.start()
        try:
            yield
        except BaseException:
            self.end()
            raise

    def renew(self, *, engine: bool | None = None, progress: Progress | None = None) -> bool:
        """Renew now; False when the claim is lost, which does not come back."""
        claim = self.claim
        if not self.lost and not self._jobs.renew(claim, engine=engine, progress=progress):
            self.lost = claim is self.claim  # else the thread renewed the segment's claim while it became the clip's
        return not self.lost

    def in_engine(self) -> AbstractContextManager[None]:
        """What may end its process: dying in this block counts as an attempt, so that it does not go on for ever."""
        return self._engine(True)

    def out_of_engine(self) -> AbstractContextManager[None]:
        """Within `in_engine`, what ends no process by itself: dying in this block is nobody's attempt."""
        return self._engine(False)

    @contextmanager
    def _engine(self, inside: bool) -> Iterator[None]:
        self.renew(engine=inside)
        try:
            yield
        finally:
            self.renew(engine=not inside)

    def move_to(self, claim: Claim) -> None:
        """Go on with `claim`: a committed segment's holder goes on with its clip."""
        self.claim = claim
        self.lost = False  # the thread may have asked for the old claim just after its commit

    def _renew_until_done(self) -> None:
        while not self._done.wait(self._interval):
            try:
                self.renew()
            except redis.RedisError as error:
                log.warning("the lease of %s %s could not be renewed: %s", self.claim.job_id, self.claim.unit, error)
