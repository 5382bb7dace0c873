"""The Celery application: queues, tasks and configuration."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import Queue

from blobstore.redis.client import CONNECT_TIMEOUT_S, keepalive, sentinel_options
from blobstore.redis.urls import parse_url
from tasks.jobs.queues import QUEUES, SEGMENTS
from tasks.settings import Settings

DAY_S = 86400
# kombu drops a connection whose reply is overdue for this long: a worker is not deaf for longer than twice that.
HEALTH_CHECK_S = 5


def make_app(settings: Settings, *, results: bool = True) -> Celery:
    """Make the application for `settings`; docs/operations.md explains each value.

    results: False for an application that only publishes. With results, a client subscribes to each task that it sends.
    """
    address = parse_url(settings.redis_url)
    server: dict[str, Any] = {"server": address.shown}
    if address.sentinels:
        server |= {
            "master_name": address.sentinels.master_name,
            "sentinel_kwargs": sentinel_options(address.sentinels, address.tls_options),
        }
    backend = _result_backend(address.for_celery) if results else "disabled://"
    app = Celery("longtake", broker=address.for_celery, backend=backend, amqp="tasks.messaging.transport:AMQP")
    app.conf.update(
        imports=(
            "tasks.worker.segment_task",
            "tasks.worker.take_task",
            "tasks.worker.clip_task",
            "tasks.worker.film_task",
            "tasks.worker.lifecycle",
            "tasks.worker.claims.process_deaths",
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
            "socket_timeout": settings.reply_timeout_s,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "health_check_interval": HEALTH_CHECK_S,
            **keepalive(settings.redis_url),
            **server,
        },
        broker_connection_max_retries=None,  # an outage of any length ends no worker
        redis_socket_timeout=settings.reply_timeout_s,
        redis_socket_connect_timeout=CONNECT_TIMEOUT_S,
        # the connection itself waits for the end of an outage
        result_backend_transport_options={
            "retry_policy": {"max_retries": 0},
            "keepalive": keepalive(settings.redis_url),
            **server,
        },
        result_backend_thread_safe=True,  # the thread that reports steps uses the connection of the task
        # A result names its job, so it expires no later than the job's record.
        result_expires=max(1, min(DAY_S, int(settings.retention_s))),
        # For Flower: queued tasks, and the progress of running ones.
        worker_send_task_events=True,
        task_send_sent_event=True,
        task_track_started=True,
    )
    if address.sentinels and address.tls_options:  # of a rediss: URL, Celery reads them itself
        app.conf.update(broker_use_ssl=address.tls_options, redis_backend_use_ssl=address.tls_options)
    return app


def _result_backend(url: str) -> str:
    """The URL of a result backend, which names its class."""
    name = "SentinelBackend" if url.startswith("sentinel:") else "RedisBackend"
    return f"tasks.messaging.result_backend:{name}+{url.removeprefix('redis+')}"
