"""Celery's own lines about a lost broker, some with a traceback, one per attempt to reconnect.

The connection logs the start and the end of an outage instead.
"""

from __future__ import annotations

import logging

# Logger, and the start of its line. Celery restarts its parts after a lost connection, and some fail in its absence.
_REPEATED = (
    ("celery.worker.consumer", "consumer: Cannot connect to "),
    ("celery.worker.consumer", "consumer: Connection to broker lost."),
    ("celery.bootsteps", "Error on restarting "),
    ("celery.backends.redis", "Connection to Redis lost: Retry"),
)
_WARNING = "worker_cancel_long_running_tasks_on_connection_loss"  # about a setting that longtake sets on purpose


def is_news(record: logging.LogRecord) -> bool:
    """A filter for log handlers: False for lines that repeat that the broker is out."""
    message = record.getMessage()
    if record.name == "py.warnings":
        return _WARNING not in message
    return not any(record.name.startswith(name) and message.startswith(start) for name, start in _REPEATED)
