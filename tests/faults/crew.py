"""A ground for faults of processes: always as many workers as a test asks for, and what they did one by one."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any, cast

import redis

from tasks.client.job import Job
from tasks.jobs.keys import job_keys
from tasks.jobs.queues import QUEUES
from tasks.maintenance.reconciler import LOCK
from tasks.messaging.celery_app import make_app
from tasks.settings import Settings
from tests.conftest import environment, wait_until
from tests.faults.ground import FaultWorker, Ground, Held
from tests.faults.nursery import Nursery


class Member(FaultWorker):
    """A worker out of a nursery."""

    def __init__(self, settings: Settings, folder: Path, name: str, nursery: Nursery) -> None:
        self._nursery = nursery
        super().__init__(settings, folder, name)

    def _start(self, settings: Settings, name: str, *_: Any) -> subprocess.Popen[bytes]:
        self.log.touch()
        return cast("subprocess.Popen[bytes]", self._nursery.make(f"{name}@test", self.log))


class Crew(Ground):
    """A ground whose workers come and go."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._nursery = Nursery(self.folder, environment(self.settings) | {"FAULT_FOLDER": str(self.folder)})

    def start_worker(self, *options: str, **variables: str) -> FaultWorker:
        """One more worker."""
        assert not options
        assert not variables
        self.workers.append(Member(self.settings, self.folder, f"worker-{len(self.workers)}", self._nursery))
        return self.workers[-1]

    def stop(self) -> None:
        """End every worker."""
        for worker in self.workers:
            if worker.is_alive:
                worker.send(signal.SIGCONT)
                worker.shut_down(signal.SIGQUIT)
        super().stop()
        self._nursery.close()

    def tidy(self) -> None:
        """Forget what the test before left: jobs under way, places where somebody is to stop, the last fault."""
        for job_id in self.jobs.active():
            self.jobs.stop(job_id, "cancelled", "its test is over")
        for path in [*(self.folder / "holds").iterdir(), *(self.folder / "held").iterdir()]:
            path.unlink()
        self.broken_at = None

    def staff(self, count: int) -> list[FaultWorker]:
        """So many workers that are to stay, oldest first; new ones may still be starting."""
        staying = [worker for worker in self.workers if worker.is_alive and not worker.leaving]
        for worker in staying[count:]:
            worker.shut_down(signal.SIGTERM)
            worker.gone()
        return staying[:count] + [self.start_worker() for _ in range(count - len(staying))]

    def worker_of(self, pid: int) -> FaultWorker | None:
        """The worker to whom this process belongs, if it lives."""
        return next((worker for worker in self.workers if worker.is_alive and pid in worker.pids), None)

    def held(self, point: str, index: int) -> tuple[Held, Job, FaultWorker]:
        """A new job that has come to a point, and the worker that stopped there with it."""
        held = self.hold(point, index)
        job = self.submit()
        worker = self.worker_of(held.pid())
        assert worker
        return held, job, worker

    def in_the_engine(self, job: Job, index: int) -> FaultWorker:
        """The worker whose engine renders this segment, once one does that is to stay."""

        def found() -> FaultWorker | None:
            unit = self._units(job).get("segment")
            inside = unit and unit["index"] == index and unit["engine"]
            worker = self.worker_of(int(unit["worker"].rpartition(":")[2])) if unit and inside else None
            return worker if worker and not worker.leaving else None

        return cast(FaultWorker, wait_until(found, what=f"segment {index} in an engine"))

    def pids(self, job: Job, point: str, index: int) -> list[int]:
        """The processes that came to a point, in order."""
        return [event.pid for event in self.events(job) if (event.point, event.index) == (point, index)]

    def waiting(self, index: int, segments: int = 3) -> tuple[Job, Path]:
        """A job that stays in the engine at a segment, and the file that lets it go on."""
        gate = self.folder / f"gate-{len(list(self.folder.glob('gate-*.made')))}"
        gate.with_suffix(".made").touch()
        prompts = [f"wait until {gate}" if i == index else "go" for i in range(segments)]
        return self.submit_prompts(*prompts), gate

    def attempts(self, job: Job) -> int:
        """The failed attempts that count against the work of a job that is under way."""
        return sum(unit["attempts"] for unit in self._units(job).values())

    def claims(self, job: Job) -> int:
        """How often work of a job was handed out."""
        return int(self._client().hget(job_keys(job.id, "record")[0], "fence") or 0)

    def lock_holder(self) -> str:
        """The name of the reconciler that works now, once one does."""
        return cast("bytes", wait_until(lambda: self._client().get(LOCK), what="a reconciler")).decode()

    def unacknowledged(self) -> int:
        """How many messages are delivered and not acknowledged."""
        return cast(int, self._client().hlen("unacked"))

    def redeliver(self) -> None:
        """What the broker does when the visibility timeout has passed, hours later: messages of the dead come back."""
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
