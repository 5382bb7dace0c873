"""A job store and its model, and all that ever existed in them; see `job_pair`."""

from __future__ import annotations

from dataclasses import dataclass

import redis

from tasks.jobs.records import FilmRecord
from tasks.jobs.results import (
    Claim,
)
from tasks.jobs.store import JobStore
from tests.tasks.jobs.deployment_model import Deployment
from tests.tasks.jobs.unit_model import Message

DEATH = "the process died"
FILM = FilmRecord("sha256:f", 9, "f", 96, 64, "24", 50, 2.0, 24000, 48000)


@dataclass(frozen=True)
class Held:
    """A claim that was granted, perhaps lost since, and its holder in the model."""

    claim: Claim
    holder: int

    @property
    def job_id(self) -> str:
        return self.claim.job_id

    @property
    def unit(self) -> str:
        return self.claim.unit.name

    @property
    def index(self) -> int:
        return self.claim.index


class PairState:
    """A job store and its model.

    `views`, `messages` and `claims` hold all that ever existed, including outdated ones.
    """

    def __init__(self, jobs: JobStore, client: redis.Redis, *, budget: int, attempts: int) -> None:
        self.jobs, self.redis = jobs, client
        self.model = Deployment(budget)
        self.attempts = attempts
        self.views: list[Message] = []
        self.messages: list[Message] = []
        self.claims: list[Held] = []
        self.fences: dict[str, int] = {}
        self.holders = 0
        self.renders = 0
        self.requests = 0

    def _add_view(self, due: bool, job_id: str, unit: str, index: int, ticket: int = 0) -> None:
        """Record what a publisher saw, so that it can act on it later."""
        if due:
            self.views.append(Message(job_id, unit, index, ticket))
