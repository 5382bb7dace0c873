"""`longtake worker` with heartbeats five times a second; a worker is silent after a second."""

from __future__ import annotations

from tasks.cli import main
from tasks.worker import heartbeat

heartbeat.BEAT_EVERY_S, heartbeat.LIFE_S = 0.2, 1.0
main()
