"""A harness for process faults: starts and stops workers on demand."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, cast

import redis

from tasks.client.job import Job
from tasks.jobs.keys import RECONCILER_LOCK, job_keys
from tasks.jobs.queues import QUEUES
from tasks.messaging.celery_app import make_app
from tests.conftest import wait_until
from tests.faults.harness import FaultWorker, Harness, Hold


class WorkerPool(Harness):
    """A harness whose number of workers each test sets."""

    def stop(self) -> None:
        """Stop every worker."""
        for worker in self.workers:
            if worker.is_alive:
                worker.send(signal.SIGCONT)
                worker.shut_down(signal.SIGQUIT)
        super().stop()

    def reset(self) -> None:
        """Cancel jobs, release holds and workers, and clear the fault of the previous test."""
        for job_id in self.jobs.active():
            self.jobs.stop(job_id, "cancelled", "its test is over")
        for path in [*(self.folder / "holds").iterdir(), *(self.folder / "held").iterdir()]:
            path.unlink()
        for worker in self.workers:
            worker.send(signal.SIGCONT)
        self.fault_at = None

    def scale(self, count: int) -> list[FaultWorker]:
        """Have exactly `count` workers, oldest first; new ones may still be starting."""
        running = [worker for worker in self.workers if worker.is_alive and not worker.shutting_down]
        for worker in running[count:]:
            worker.shut_down(signal.SIGTERM)
            worker.wait_exit()
        return running[:count] + [self.start_worker() for _ in range(count - len(running))]

    def worker_of(self, pid: int) -> FaultWorker | None:
        """The live worker to which this process belongs, if any."""
        return next((worker for worker in self.workers if worker.is_alive and pid in worker.pids), None)

    def submit_and_hold(self, point: str, index: int) -> tuple[Hold, Job, FaultWorker]:
        """Submit a job and hold it at a failpoint; returns the hold, the job and the held worker."""
        hold = self.hold(point, index)
        job = self.submit()
        worker = self.worker_of(hold.wait())
        assert worker
        return hold, job, worker

    def submit_blocked(self, index: int, segments: int = 3) -> tuple[Job, Path]:
        """Submit a job that blocks in the engine at segment `index` until the returned file exists."""
        release = self.folder / f"release-{len(list(self.folder.glob('release-*.reserved')))}"
        release.with_suffix(".reserved").touch()
        prompts = [f"wait until {release}" if i == index else "continue" for i in range(segments)]
        return self.submit_prompts(*prompts), release

    def worker_rendering(self, job: Job, index: int) -> FaultWorker:
        """Wait until a worker that is not shutting down has this segment in its engine; returns the worker."""

        def found() -> FaultWorker | None:
            unit = self._units(job).get("segment")
            inside = unit and unit["index"] == index and unit["engine"]
            worker = self.worker_of(int(unit["worker"].rpartition(":")[2])) if unit and inside else None
            return worker if worker and not worker.shutting_down else None

        return cast(FaultWorker, wait_until(found, what=f"segment {index} in an engine"))

    def pids_at(self, job: Job, point: str, index: int) -> list[int]:
        """The processes that reached a failpoint, in order."""
        return [event.pid for event in self.events(job) if (event.point, event.index) == (point, index)]

    def attempts(self, job: Job) -> int:
        """The failed attempts counted against a job's units in progress."""
        return sum(unit["attempts"] for unit in self._units(job).values())

    def claims(self, job: Job) -> int:
        """The number of claims on a job's units so far."""
        return int(self._client().hget(job_keys(job.id, "record")[0], "fence") or 0)

    def active_reconciler(self) -> str:
        """Wait until a reconciler is active; returns its token."""
        return cast("bytes", wait_until(lambda: self._client().get(RECONCILER_LOCK), what="a reconciler")).decode()

    def unacknowledged(self) -> int:
        """The number of messages that are delivered and not acknowledged."""
        return cast(int, self._client().hlen("unacked"))

    def redeliver(self) -> None:
        """Requeue every unacknowledged message, as the broker does hours later, after the visibility timeout."""
        wait_until(lambda: not any(self._client().llen(queue) for queue in QUEUES), what="empty queues")
        with make_app(self.settings, results=False).connection_for_write() as connection:
            channel = connection.default_channel
            for tag in cast("list[bytes]", self._client().hkeys("unacked")):
                channel.qos.restore_by_tag(tag.decode())

    def _units(self, job: Job) -> dict[str, Any]:
        units = cast("dict[bytes, bytes]", self._client().hgetall(job_keys(job.id, "units")[0]))
        return {name.decode(): json.loads(unit) for name, unit in units.items()}

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.settings.redis_url)
