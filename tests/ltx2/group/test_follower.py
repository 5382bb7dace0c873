"""A follower whose leader hangs."""

from __future__ import annotations

import signal
import subprocess
import sys

LEADER = """
import os, threading, time
from multiprocessing.connection import Pipe
from ltx2.group.follower import BEAT, Follower

own, other = Pipe()
if os.fork():
    time.sleep(600)  # it hangs, and reads nothing
own.close()
os.set_blocking(other.fileno(), False)
try:
    while True:
        other.send_bytes(BEAT)
except BlockingIOError:
    os.set_blocking(other.fileno(), True)
follower = Follower(other, ["1", "2", "cpu", "nowhere", "0.1"])
follower._expect_leader(0.0)
for work in (follower._beat, follower._watch_leader):
    threading.Thread(target=work, daemon=True).start()
follower._read()
"""


def test_a_leader_that_reads_nothing_any_more_is_killed() -> None:
    # Given a leader that has hung for so long that no word from its follower fits into the connection
    leader = subprocess.run([sys.executable, "-c", LEADER], timeout=60, check=False)
    # Then the follower, which cannot say that it lives, kills it all the same
    assert leader.returncode == -signal.SIGKILL
