"""A process that exports the root spans of jobs that end in a worker's main process; see `export_roots`.

The main process forks its children, so it has no exporter: a child would inherit the locks of its thread.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import deque

from ltx2.processes import python_path

log = logging.getLogger(__name__)
PROGRAM = "tasks.messaging.export_roots"
IDS_LIMIT = 500
"""Jobs that one process is given: the arguments of a program have a limit."""
MOST_IDS = 10_000
"""Jobs that may wait for a process; then the oldest are dropped."""


class RootProcess:
    """Starts the process that exports roots, of which there is one at a time."""

    def __init__(self) -> None:
        self._ended: deque[str] = deque(maxlen=MOST_IDS)  # several threads add to it
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, job_id: str) -> None:
        """Export the root of this job when `start` is called."""
        self._ended.append(job_id)

    def start(self) -> None:
        """Start to export, unless nothing is to be exported or the last process still runs."""
        if (self._process is not None and self._process.poll() is None) or not self._ended:
            return
        job_ids = dict.fromkeys(self._ended.popleft() for _ in range(min(len(self._ended), IDS_LIMIT)))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", PROGRAM, *job_ids],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": python_path()},
                start_new_session=True,  # it outlives a worker that is stopped meanwhile, see `LONGEST_S` there
            )
        except OSError as error:  # such as no memory: traces must not stop the thread that calls
            log.warning("the roots of %d traces are lost: %s", len(job_ids), error)
