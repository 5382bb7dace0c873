"""Renews the lease of a claim in a thread while the work runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Self

import redis

from tasks.errors import RecordError
from tasks.jobs.connection import OUTAGES
from tasks.jobs.records import Progress
from tasks.jobs.results import Claim
from tasks.jobs.store import JobStore
from tasks.logs import SaidOnce

log = logging.getLogger(__name__)
RENEWALS = 6
"""Per lease. A worker whose words arrive, but that hears nothing, vanishes with its last renewal."""
OVERDUE_S = 1.0


class Lease:
    """A claim whose lease a thread renews. A context manager.

    hand_over: called after each renewal by the thread; whether it released the claim, which is lost then.
    """

    def __init__(
        self, jobs: JobStore, claim: Claim, lease_s: float, hand_over: Callable[[Claim], bool] = lambda _: False
    ) -> None:
        self.claim = claim
        self.lost = False
        self._said = SaidOnce()
        self._jobs = jobs
        self._hand_over = hand_over
        self._interval = lease_s / RENEWALS
        self._asked: float | None = None
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
        """Stop renewing, without waiting for a renewal that hangs in an outage."""
        self._done.set()

    @contextmanager
    def until_handed_over(self) -> Iterator[None]:
        """Start renewing and hand over in this block: the new holder or an error ends it."""
        self.start()
        try:
            yield
        except BaseException:
            self.end()
            raise

    def renew(self, *, progress: Progress | None = None) -> bool:
        """Renew now; False if the claim is lost, and from then on.

        Progress is not sent while the thread waits for a reply: in an outage, it would only lengthen the lease.
        """
        asked = self._asked
        if progress is not None and asked is not None and time.monotonic() - asked > OVERDUE_S:
            return not self.lost
        claim = self.claim
        if not self.lost and not self._jobs.renew(claim, progress=progress):
            self.lost = claim is self.claim  # otherwise `move_to` replaced it meanwhile
        return not self.lost

    def in_engine(self) -> AbstractContextManager[None]:
        """Mark work that can end the process: a crash inside this block counts as an attempt."""
        return self._engine(True)

    def out_of_engine(self) -> AbstractContextManager[None]:
        """Within `in_engine`, mark other work: a crash here does not count."""
        return self._engine(False)

    @contextmanager
    def _engine(self, inside: bool) -> Iterator[None]:
        self._jobs.mark_engine(self.claim, inside)
        try:
            yield
        finally:
            self._jobs.mark_engine(self.claim, not inside)

    def move_to(self, claim: Claim) -> None:
        """Renew `claim` instead: after its commit, a segment's holder makes the clip."""
        self.claim = claim
        self.lost = False  # the thread may have tried to renew the old claim just after its commit

    def _renew_until_done(self) -> None:
        while not self._done.wait(self._interval):
            self._asked = time.monotonic()
            claim = self.claim
            try:
                if self.renew() and self._hand_over(claim):
                    self.lost = claim is self.claim
            except OUTAGES:
                pass  # the connection has logged it
            except redis.OutOfMemoryError:
                pass  # the wait for memory has logged it
            except (redis.RedisError, RecordError) as error:
                if self._said.is_new(str(error)):
                    log.warning("cannot renew the lease of job %s, %s: %s", claim.job_id, claim.unit, error)
            finally:
                self._asked = None
