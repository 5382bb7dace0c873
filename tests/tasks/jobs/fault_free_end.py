"""The end of a history: all leases expire, and workers without faults finish every job."""

from __future__ import annotations

from collections.abc import Callable

from tests.tasks.jobs.job_pair import JobPair
from tests.tasks.jobs.pair_state import FILM

Work = Callable[[str], None]
"""Publishes and delivers what is due of a job, and commits it with its clips."""
FAULT_FREE_ROUNDS = 30


def finish_all(pair: JobPair, work: Work) -> None:
    """Finish and delete every job, without further faults."""
    jobs = pair.model.jobs
    for held in pair.claims:
        pair.expire(held)
    for job_id, job in jobs.items():
        pair.resume(job_id)
        pair.survey(job_id)
        if job.needs <= pair.model.budget:
            pair.revive(job_id, "failed")
    for job_id, job in jobs.items():
        if job.unfinished and job.segments:
            pair.approve(job_id, None)
            pair.close_end(job_id)
        elif job.unfinished:
            pair.stop(job_id, "cancelled", "by user")
    for job_id in [job_id for job_id, job in jobs.items() if not job.unfinished]:
        pair.delete(job_id)
    while jobs:
        while pair.admit():
            pass
        ready = [job_id for job_id, job in jobs.items() if job.admitted or not job.unfinished]
        if ready:
            _finish(pair, work, ready[0])
            pair.delete(ready[0])
        else:
            _delete_a_revived_job(pair)


def _delete_a_revived_job(pair: JobPair) -> None:
    """Delete one of several revived jobs that block each other."""
    revived = [job_id for job_id in pair.model.waiting if job_id in pair.model.reserved]
    assert len(revived) > 1, "a job waits although no other job blocks it"
    pair.stop(min(revived), "cancelled", "by user")
    pair.delete(min(revived))


def _finish(pair: JobPair, work: Work, job_id: str) -> None:
    job = pair.model.job(job_id)
    fits, renders = job.unfinished, pair.renders + job.renders_left()
    for _ in range(FAULT_FREE_ROUNDS):
        if job.unfinished:
            work(job_id)
            pair.compare()
    assert not job.unfinished, f"the job does not finish: {job}"
    if fits:
        assert pair.jobs.status(job_id).film == FILM
        assert pair.renders == renders
