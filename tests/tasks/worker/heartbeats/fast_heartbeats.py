"""`longtake worker` with heartbeats five times a second, which looks ten seconds long for another one of its name."""

from __future__ import annotations

from tasks.cli import main
from tasks.worker.heartbeats import heartbeat

heartbeat.BEAT_EVERY_S, heartbeat.NAME_CHECKS = 0.2, 50
main()
