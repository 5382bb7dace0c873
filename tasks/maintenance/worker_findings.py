"""What is wrong with the workers, as their heartbeats say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from tasks.jobs.queues import CLIPS, SEGMENTS
from tasks.jobs.workers import WorkerInfo, WorkerList, same_name
from tasks.maintenance.findings import Finding, error, warning

WORKERS = "workers"
CLOCK_TOLERANCE_S = 1.0


def examine_workers(workers: WorkerList) -> Iterator[Finding]:
    """What is wrong with these workers."""
    living = workers.living
    if not living:
        yield error(WORKERS, "no worker is alive", "start `longtake worker` on a machine with a GPU")
    for ended in workers.ended:
        if any(worker.has_replaced(ended) for worker in living):
            continue
        problem = f"worker {ended.name} on {ended.host} has ended because its host cannot render: {ended.fault}"
        yield error(WORKERS, problem, "repair the host and start the worker again")
    for silent in workers.silent:
        who = f"worker {silent.worker.name}, process {silent.worker.pid} on {silent.worker.host}"
        problem = f"no word from {who}, for {silent.seconds:.0f} s"
        yield warning(WORKERS, problem, "it was killed, is frozen, or cannot reach the broker: look at its log")
    for unreadable in workers.unreadable:
        yield warning(WORKERS, f"the heartbeat of a worker cannot be read: {unreadable}", "give all one version")
    for name, sharing in same_name(living).items():
        where = ", ".join(f"process {worker.pid} on {worker.host}" for worker in sharing)
        yield warning(WORKERS, f"{len(sharing)} workers have the name {name}: {where}", "give each its own --name")
    yield from _examine_gpus(living)
    renderers = [worker for worker in living if {SEGMENTS, CLIPS} & set(worker.queues)]
    for what, value_of in COMPARED.items():
        yield from _differences(what, renderers, value_of)
    for worker in living:
        if worker.blob_outage_s:
            problem = f"worker {worker.name} on {worker.host} cannot reach the blob server"
            advice = "check LONGTAKE_BLOB_URL and the network there"
            yield error(WORKERS, f"{problem}, for {worker.blob_outage_s:.0f} s", advice)
        if abs(worker.clock_offset_s) > CLOCK_TOLERANCE_S:
            problem = f"the clock of {worker.host} (worker {worker.name}) is off by {worker.clock_offset_s:+.1f} s"
            yield warning(WORKERS, problem, "synchronize it with that of the broker")


def _versions(name: str) -> Callable[[WorkerInfo], str]:
    return lambda worker: str(getattr(worker.versions, name)) or "unknown"


COMPARED: dict[str, Callable[[WorkerInfo], str]] = {
    **{f"versions of {name}": _versions(name) for name in ("longtake", "torch", "diffusers", "celery", "python")},
    "models": lambda worker: worker.model,
    "engines": lambda worker: worker.engine,
    "GPUs": lambda worker: ", ".join(sorted({child.device for child in worker.children if child.gpu})) or "none",
}
ADVICE = {
    "models": "give all workers one LONGTAKE_MODEL, or each change of the model costs a load",
    "engines": "give all workers one LONGTAKE_ENGINE",
    "GPUs": "films are the same byte for byte on one kind of GPU only",
}


def _differences(what: str, workers: Sequence[WorkerInfo], value_of: Callable[[WorkerInfo], str]) -> Iterator[Finding]:
    by_value: dict[str, list[str]] = {}
    for worker in workers:
        if worker.is_ready:  # before, its GPU is not known
            by_value.setdefault(value_of(worker), []).append(worker.name)
    if len(by_value) > 1:
        values = "; ".join(f"{value} ({_few(names)})" for value, names in sorted(by_value.items()))
        yield warning(WORKERS, f"the workers have different {what}: {values}", ADVICE.get(what, "install one version"))


def _examine_gpus(workers: Iterable[WorkerInfo]) -> Iterator[Finding]:
    """Two processes on one GPU, as without CUDA_VISIBLE_DEVICES."""
    users: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for worker in workers:
        for child in worker.children:
            for uuid in (child.gpu.uuid, *child.gpu.others) if child.gpu else ():
                if uuid:
                    users.setdefault(uuid, []).append(worker.name)
                    names[uuid] = child.gpu.name if child.gpu else ""
    for uuid, sharing in users.items():
        if len(sharing) > 1:
            problem = f"{_few(sharing)} render on one GPU, {names[uuid]} {uuid}"
            yield warning(WORKERS, problem, "start one worker per GPU, each with its own CUDA_VISIBLE_DEVICES")


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(sorted(names)[:3])}{more}"
