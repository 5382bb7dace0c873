"""How many messages wait in each queue, and which were claimed, by priority."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import redis
from redis.client import Pipeline

from tasks.jobs.keys import queue_key
from tasks.jobs.queues import QUEUES, Priority, list_key

LANES = tuple(product(QUEUES, Priority))
REPLIES = 2 * len(LANES)
"""How many replies `ask` brings."""
CLAIMED = {Priority.NORMAL: "claimed", Priority.HIGH: "claimed:high"}
"""The field of a queue's history with the highest stamp claimed."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """The messages of one queue and priority: how many wait, and the highest stamp among those that were claimed."""

    length: int
    claimed: int

    def has_lost(self, stamp: int) -> bool:
        """Whether a message with this stamp, which was not claimed, is gone."""
        return not self.length or self.claimed > stamp


QueueStates = Mapping[tuple[str, Priority], QueueState]


def ask(pipe: Pipeline) -> None:
    """Ask for what `states_in` reads."""
    for queue, priority in LANES:
        pipe.llen(list_key(queue, priority))
        pipe.hget(queue_key(queue), CLAIMED[priority])


def states_in(replies: Sequence[Any]) -> QueueStates:
    """The queues in the first REPLIES of `replies`. TypeError, ValueError: a key has another type."""
    return {
        lane: QueueState(int(replies[2 * number]), int(replies[2 * number + 1] or 0))
        for number, lane in enumerate(LANES)
    }


def read_queue_states(client: redis.Redis) -> QueueStates:
    """The queues of a deployment.

    Raises:
        redis.RedisError: a key has another type, or the server cannot be reached.
    """
    with client.pipeline(transaction=False) as pipe:
        ask(pipe)
        return states_in(pipe.execute())
