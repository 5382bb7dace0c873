"""The Celery application: queues, tasks and configuration."""

from __future__ import annotations

from celery import Celery
from kombu import Queue

from blobstore.redis.client import keepalive
from tasks.jobs.queues import QUEUES, SEGMENTS
from tasks.settings import Settings

DAY_S = 86400


def make_app(settings: Settings, *, results: bool = True) -> Celery:
    """Make the application for `settings`; docs/operations.md explains each value.

    results: False for an application that only publishes. With results, a client subscribes to each task that it sends.
    """
    backend = settings.broker if results else "disabled://"
    app = Celery("longtake", broker=settings.broker, backend=backend, amqp="tasks.messaging.message_filter:AMQP")
    app.conf.update(
        imports=(
            "tasks.worker.segment_task",
            "tasks.worker.clip_task",
            "tasks.worker.film_task",
            "tasks.worker.lifecycle",
            "tasks.worker.process_deaths",
        ),
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        task_queues=[Queue(name) for name in QUEUES],
        task_default_queue=SEGMENTS,
        task_create_missing_queues=False,
        # A message is acknowledged when its work is committed; recovery belongs to the reconciler, not to the broker.
        task_acks_late=True,
        task_acks_on_failure_or_timeout=True,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_pool="prefork",
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # Loading a full-size model takes minutes; a shorter limit would kill every new child.
        worker_proc_alive_timeout=600,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "visibility_timeout": settings.visibility_timeout_s,
            "socket_timeout": None,
            "health_check_interval": 30,
            **keepalive(settings.redis_url),
        },
        redis_socket_timeout=30.0,
        redis_socket_keepalive=not settings.redis_url.startswith("unix:"),
        redis_retry_on_timeout=True,
        # A result names its job, so it expires no later than the job's record.
        result_expires=max(1, min(DAY_S, int(settings.retention_s))),
        # For Flower: queued tasks, and the progress of running ones.
        worker_send_task_events=True,
        task_send_sent_event=True,
        task_track_started=True,
    )
    return app
