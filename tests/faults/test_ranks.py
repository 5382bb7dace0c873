"""Faults of the processes that render together: the segment runs again in new ones, and no attempt is counted."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tasks.client.display.workers import list_workers
from tasks.client.job import Job
from tasks.errors import JobFailedError
from tests.conftest import wait_until
from tests.faults.conftest import MakeHarness, film_of
from tests.faults.harness import SEGMENTS, FaultWorker, Harness

Ranks = tuple[int, int]  # the processes of rank 0 and 1
IN_ENGINE = ("segment hydrated", "state rendered", "clip encoded")
"""Where rank 0 renders a segment, or the one after the clip's: its death counts, as that of any worker's child."""
POINTS = (*IN_ENGINE, "segment rendered", "segment committed")


def ranks_of(worker: FaultWorker) -> Ranks | None:
    """The ranks of a worker that has both."""
    with suppress(psutil.Error):  # one has just ended
        for child in psutil.Process(worker.process.pid).children():
            for follower in child.children():
                if "ltx2.group.follower" in follower.cmdline():
                    return child.pid, follower.pid
    return None


@pytest.fixture(scope="module")
def ranked(make_harness: MakeHarness) -> Harness:
    """A harness with one worker of two ranks; one counted attempt ends a job, and silence of five seconds a rank."""
    made = make_harness(gpus="2", device="cpu", rank_timeout_s=5.0, max_attempts=1, lease_s=3.0)
    made.start_worker(FAULT_CONSTANTS="ltx2.group.watch.ABORT_S=1")
    return made


@pytest.fixture(scope="module")
def film(ranked: Harness) -> str:
    return film_of(ranked, SEGMENTS)


def in_engine(harness: Harness) -> tuple[Job, Path, Ranks]:
    """A job whose middle segment is in the engine of both ranks until a file exists, and the ranks."""
    go = harness.folder / f"go-{len(harness.events())}"
    job = harness.submit_prompts("0", f"wait until {go}", "2")
    wait_until(lambda: (at := job.status().progress) and at.index == 1, what="the middle segment")
    ranks = wait_until(lambda: ranks_of(harness.workers[-1]), what="the ranks")
    harness.mark_fault()
    return job, go, ranks


def wait_for_new_ranks(harness: Harness, old: Ranks) -> None:
    """Wait until the worker has others than `old`, which have ended."""
    wait_until(lambda: (now := ranks_of(harness.workers[-1])) and not set(now) & set(old), what="new ranks")
    wait_until(lambda: not any(map(psutil.pid_exists, old)), what="the end of the old ones")


def stalled(harness: Harness, rank: int) -> tuple[Job, Path, Ranks]:
    """As `in_engine`, but one rank lives and does not come to an exchange until the file exists."""
    go = harness.folder / f"go-{len(harness.events())}"
    job = harness.submit_prompts("0", f"rank {rank} stall until {go}", "2")
    wait_until(lambda: job.status().committed == 1, what="the middle segment")
    ranks = wait_until(lambda: ranks_of(harness.workers[-1]), what="the ranks")
    harness.mark_fault()
    return job, go, ranks


def verify_in_new_ranks(harness: Harness, film: str, job: Job, go: Path, old: Ranks) -> None:
    """New ranks render the segment again and the same film, and no attempt is counted."""
    wait_for_new_ranks(harness, old)
    go.touch()
    harness.verify(job, film, denoised_again=1)


def devices(harness: Harness) -> list[str]:
    """What heartbeats say of the devices of all children."""
    return [child.device for worker in list_workers(settings=harness.settings).living for child in worker.children]


def test_a_killed_follower_costs_one_segment(ranked: Harness, film: str) -> None:
    # Given a worker of two ranks, which it shows, and a segment in their engines
    job, go, ranks = in_engine(ranked)
    wait_until(lambda: devices(ranked) == ["2 x CPU"], what="a heartbeat after the model was loaded")
    # When
    os.kill(ranks[1], signal.SIGKILL)
    # Then the worker has a new child with a new follower, no attempt is counted, and the film is the same
    verify_in_new_ranks(ranked, film, job, go, ranks)
    assert f"rank 1 (process {ranks[1]}) died by signal 9" in ranked.workers[-1].text()


@pytest.mark.faults
def test_a_cancelled_job_stops_both_ranks(ranked: Harness, film: str) -> None:
    # Given / When
    job, _, ranks = in_engine(ranked)
    job.cancel()
    # Then the same ranks render the next job
    assert film_of(ranked, SEGMENTS) == film
    assert ranks_of(ranked.workers[-1]) == ranks


@pytest.mark.faults
def test_a_stopped_follower_is_given_up(ranked: Harness, film: str) -> None:
    # Given / When
    job, go, ranks = in_engine(ranked)
    os.kill(ranks[1], signal.SIGSTOP)
    # Then
    verify_in_new_ranks(ranked, film, job, go, ranks)
    assert "no word from rank 1" in ranked.workers[-1].text()


@pytest.mark.faults
def test_a_follower_that_hangs_is_given_up(ranked: Harness, film: str) -> None:
    # Given a follower that lives, but does not come to an exchange
    job, go, ranks = stalled(ranked, 1)
    # When / Then
    verify_in_new_ranks(ranked, film, job, go, ranks)


@pytest.mark.faults
def test_an_exchange_that_fails_on_all_ranks_is_no_attempt(ranked: Harness, film: str) -> None:
    # Given / When rank 0 comes to an exchange after the follower has given it up, and so finds nobody
    job, go, ranks = stalled(ranked, 0)
    ranked.workers[-1].wait_for_log("Timed out waiting")
    go.touch()
    # Then
    verify_in_new_ranks(ranked, film, job, go, ranks)


@pytest.mark.faults
def test_a_stopped_leader_loses_its_segment(ranked: Harness, film: str) -> None:
    # Given / When its lease ends, and it goes on
    job, go, ranks = in_engine(ranked)
    os.kill(ranks[0], signal.SIGSTOP)
    wait_until(lambda: job.status().progress is None, what="the end of its lease")
    os.kill(ranks[0], signal.SIGCONT)
    go.touch()
    # Then
    ranked.verify(job, film, denoised_again=1)


@pytest.mark.faults
def test_a_leader_that_is_stopped_for_good_is_killed(ranked: Harness) -> None:
    # Given / When nothing in it can see that it hangs
    job, go, ranks = in_engine(ranked)
    os.kill(ranks[0], signal.SIGSTOP)
    # Then a follower kills it, which is an attempt, here the only one, and the worker goes on
    wait_for_new_ranks(ranked, ranks)
    with pytest.raises(JobFailedError, match="its process died"):
        job.wait(60)
    go.touch()


@pytest.mark.faults
def test_ranks_that_are_stopped_together_go_on(ranked: Harness, film: str) -> None:
    # Given ranks outside of an exchange, which over gloo has a time limit of its own
    hold = ranked.hold("segment rendered", 1)
    job = ranked.submit()
    hold.wait()
    ranks = ranks_of(ranked.workers[-1])
    ranked.mark_fault()
    # When the whole worker is stopped for longer than a rank may be silent, as by `docker pause`
    group, end = os.getpgid(ranked.workers[-1].process.pid), time.monotonic() + 8
    os.killpg(group, signal.SIGSTOP)
    wait_until(lambda: time.monotonic() > end, what="the end of the pause")
    os.killpg(group, signal.SIGCONT)
    hold.release()
    # Then the same ranks render the segment, again if its lease is lost
    ranked.verify(job, film, denoised_again=1)
    assert ranks_of(ranked.workers[-1]) == ranks


@pytest.mark.faults
def test_memory_of_one_rank(ranked: Harness, film: str) -> None:
    # Given a segment for which one rank has no memory, for a while
    enough = ranked.folder / "enough"
    job = ranked.submit_prompts("0", f"rank 1 memory until {enough}", "2")
    wait_until(
        lambda: (
            "failed on some ranks only: rank 1: EngineMemoryError" in ranked.workers[-1].text()
            or "failed (EngineMemoryError: " in ranked.workers[-1].text()
        ),
        what="it",
    )
    ranked.mark_fault()
    enough.touch()
    # Then no attempt is counted
    ranked.verify(job, film, denoised_again=1)


@pytest.mark.faults
def test_a_model_for_which_one_rank_has_no_memory(make_harness: MakeHarness) -> None:
    # Given / When
    made = make_harness(gpus="2", device="cpu")
    worker = made.start_worker(STAND_IN_LOAD_FAILS="rank 1")
    # Then new ranks try again, and then the worker ends and says why
    worker.wait_exit()
    last = worker.text().rstrip().splitlines()[-1]
    assert "load failed on some ranks only: rank 1: EngineMemoryError: no memory" in last


@pytest.mark.faults
def test_memory_of_all_ranks(ranked: Harness, film: str) -> None:
    # Given / When each rank may be out of memory at another exchange, which would then wait for ever
    ranks = ranks_of(ranked.workers[-1])
    job = ranked.submit_prompts("memory")
    # Then the attempt counts, and new ranks render the next job
    with pytest.raises(JobFailedError, match="segment 0 after 1 attempt: EngineMemoryError"):
        job.wait()
    assert film_of(ranked, SEGMENTS) == film
    assert not set(ranks or ()) & set(ranks_of(ranked.workers[-1]) or ())


@pytest.mark.faults
def test_a_segment_that_ends_its_rank_each_time_ends_its_job_alone(ranked: Harness, film: str) -> None:
    # Given / When
    job = ranked.submit_prompts("rank 1 die")
    # Then the second time counts
    with pytest.raises(JobFailedError, match=r"segment 0 after 1 attempt: RankError: rank 1 \(process \d+\) died"):
        job.wait()
    # And the worker renders the next one
    assert film_of(ranked, SEGMENTS) == film


@pytest.mark.faults
@pytest.mark.parametrize(
    ("point", "rank"), [(point, rank) for point in POINTS for rank in (0, 1) if rank or point not in IN_ENGINE]
)
def test_a_rank_killed_at(ranked: Harness, film: str, point: str, rank: int) -> None:
    kill_a_rank_at(ranked, film, point, rank)


def kill_a_rank_at(harness: Harness, film: str, point: str, rank: int) -> None:
    # Given two ranks, of which the first holds a segment at a point
    hold = harness.hold(point, 1)
    job = harness.submit()
    hold.wait()
    ranks = ranks_of(harness.workers[-1])
    assert ranks
    # When
    harness.mark_fault()
    os.kill(ranks[rank], signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(ranks[1]) or rank == 1, what="the end of the follower")
    hold.release()
    # Then
    harness.verify(job, film, denoised_again=1)
    harness.wait_idle()


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.faults), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def test_followers_killed_with_the_real_model(make_harness: MakeHarness, device: str) -> None:
    # Given a worker with the small model on two ranks
    made = make_harness(gpus="2", device=device, engine="ltx2.engine:Engine", max_attempts=1, lease_s=3.0)
    made.start_worker()
    undisturbed = film_of(made, SEGMENTS)
    # When / Then
    for point in POINTS:
        kill_a_rank_at(made, undisturbed, point, 1)


@pytest.mark.faults
def test_a_leader_that_cannot_leave_a_call(ranked: Harness, film: str) -> None:
    # Given a segment in which rank 0 hears nothing of the others any more
    job, go, ranks = stalled(ranked, 0)
    # When the follower is killed
    os.kill(ranks[1], signal.SIGKILL)
    # Then the process ends by itself, and no attempt is counted
    verify_in_new_ranks(ranked, film, job, go, ranks)
    assert "it is stuck" in ranked.workers[-1].text()


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_shutdown_of_all_processes(ranked: Harness, film: str, number: int) -> None:
    # Given a segment in both engines, and another worker
    job, go, ranks = in_engine(ranked)
    worker = ranked.workers[-1]
    ranked.start_worker().ready()
    # When every process gets the signal, as from systemd
    os.kill(ranks[1], number)
    worker.shut_down(number, all_processes=True)
    go.touch()
    # Then the segment is finished or released, and all processes end
    ranked.verify(job, film, denoised_again=1)
    worker.wait_exit()
    wait_until(lambda: not any(map(psutil.pid_exists, ranks)), what="the end of both ranks")
