"""A follower and its leader, which may hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Pipe

import pytest

from ltx2.group.follower import FAILED, Follower
from tests.conftest import STAND_IN, wait_until
from tests.stand_in import LOAD_FAILS

LEADER = """
import os, sys, threading, time
from multiprocessing.connection import Pipe
from ltx2.group import follower
from ltx2.group.follower import BEAT, Follower

follower.BEAT_EVERY_S, follower.LONGEST_GAP_S = 0.1, 0.2
own, other = Pipe()
if os.fork():
    for _ in range(10):
        time.sleep(float(sys.argv[1]) / 10)  # it reads nothing
    sys.exit()
own.close()
os.set_blocking(other.fileno(), False)
try:
    while True:
        other.send_bytes(BEAT)
except BlockingIOError:
    os.set_blocking(other.fileno(), True)
follower = Follower(other, ["1", "2", "cpu", "nowhere", sys.argv[2]])
follower._expect_leader(0.0)
for work in (follower._beat, follower._watch_leader):
    threading.Thread(target=work, daemon=True).start()
print("watched", flush=True)
follower._read()
"""


def test_a_leader_that_reads_nothing_any_more_is_killed() -> None:
    # Given a leader that has hung for so long that no word from its follower fits into the connection
    leader = subprocess.run([sys.executable, "-c", LEADER, "600", "0.1"], timeout=60, check=False)
    # Then the follower, which cannot say that it lives, kills it all the same
    assert leader.returncode == -signal.SIGKILL


def test_a_leader_that_was_stopped_together_with_its_follower_lives() -> None:
    # Given a leader that has three seconds to go on, and needs much less, also on a busy machine
    command = [sys.executable, "-c", LEADER, "0.4", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0) as leader:
        assert leader.stdout
        assert leader.stdout.readline() == b"watched\n"
        # When both are stopped until it is overdue by the clock, and continue
        os.killpg(leader.pid, signal.SIGSTOP)
        end = time.monotonic() + 3.2
        wait_until(lambda: time.monotonic() > end, what="the end of the pause")
        os.killpg(leader.pid, signal.SIGCONT)
    # Then
    assert leader.returncode == 0


def test_a_leader_that_still_loads_after_a_fault_of_its_follower_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a rank that fails to load a model, while another may read its files for a whole timeout
    monkeypatch.setenv(LOAD_FAILS, "all ranks")
    timeout_s = 300.0
    follower = Follower(Pipe()[1], ["1", "2", "cpu", "nowhere", str(timeout_s)])
    # When
    answer = follower._answer("load", (STAND_IN, "shapes"), {})
    # Then
    assert answer.startswith(FAILED + b"RuntimeError: CUDA error")
    assert follower._leader_due is not None
    assert follower._leader_due > follower._clock.now() + timeout_s
