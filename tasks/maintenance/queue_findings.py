"""What is wrong with the queues: work that no worker takes, and entries that are not longtake's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import redis

from tasks.errors import LongtakeError
from tasks.jobs.queues import QUEUES, STICKY_PREFIX, Priority, list_key
from tasks.jobs.workers import WorkerInfo
from tasks.maintenance.findings import Finding, error, warning
from tasks.messaging.schema import REPLIES, check_entry

ABOUT = "queues"
ENTRIES_CHECKED = 100
JUNK_QUEUES_SHOWN = 10


def examine_queues(client: redis.Redis, workers: Sequence[WorkerInfo]) -> Iterator[Finding]:
    """What is wrong with the queues on the broker of `client`, for these living workers."""
    consumed = {queue for worker in workers for queue in worker.queues}
    names = sorted({key.decode(errors="replace") for key in client.scan_iter(count=1000, _type="list")})
    junk = [name for name in names if not _is_known(name)]
    for queue in QUEUES:
        waiting = sum(client.llen(name) for name in names if _queue_in(name) == queue)
        if waiting and queue not in consumed:
            problem = f"no living worker takes the messages of {queue}: {waiting} wait"
            yield error(ABOUT, problem, "start `longtake worker`")
    for name in names:
        queue = _queue_in(name)
        if queue in QUEUES or queue.startswith(STICKY_PREFIX):
            yield from _examine_entries(client, name, queue)
    for name in junk[:JUNK_QUEUES_SHOWN]:
        problem = f"the list {ascii(name)[1:-1][:100]} is no queue of longtake"
        yield warning(ABOUT, problem, "see who writes it; two applications should not share a database")
    if len(junk) > JUNK_QUEUES_SHOWN:
        yield warning(ABOUT, f"{len(junk) - JUNK_QUEUES_SHOWN} more lists are no queues of longtake")


def _queue_in(name: str) -> str:
    """The queue in the key of one of its lists."""
    return name.removesuffix(list_key("", Priority.HIGH))


def _is_known(name: str) -> bool:
    queue = _queue_in(name)
    return queue in QUEUES or queue.startswith(STICKY_PREFIX) or name.endswith(REPLIES)


def _examine_entries(client: redis.Redis, name: str, queue: str) -> Iterator[Finding]:
    """The entries that are taken next: workers drop those that are not messages of longtake."""
    entries = cast("list[bytes]", client.lrange(name, -ENTRIES_CHECKED, -1))
    reasons = [reason for reason in (_refusal(entry, queue) for entry in entries) if reason]
    if reasons:
        problem = f"{len(reasons)} of the next {len(entries)} entries of {queue} are refused by workers: {reasons[0]}"
        yield warning(ABOUT, problem, "see who writes to the broker; only longtake should")


def _refusal(entry: bytes, queue: str) -> str:
    try:
        check_entry(entry, queue)
    except LongtakeError as refused:
        return str(refused)
    return ""
