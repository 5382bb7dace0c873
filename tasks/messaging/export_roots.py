"""Exports the root spans of jobs that have ended. A program: its arguments are the ids of jobs, ended or not."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from contextlib import closing

from tasks.jobs.connection import connect
from tasks.jobs.reader import JobReader
from tasks.messaging.tracing import tracing
from tasks.settings import Settings

LONGEST_S = 60
"""After this SIGALRM ends the process, whatever it waits for, so that the next one can start."""


def main(job_ids: Sequence[str]) -> None:
    """Export the roots of those of these jobs that have ended."""
    signal.alarm(LONGEST_S)
    settings = Settings.from_env()
    tracing.start()
    with closing(JobReader(connect(settings.redis_url, reply_timeout_s=settings.reply_timeout_s))) as jobs:
        for job_id in job_ids:
            tracing.job_ended(job_id, jobs)
    tracing.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
