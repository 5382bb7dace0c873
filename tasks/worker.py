"""The life of a worker process: checks at start, the reconciler beside the pool, the model in the child."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from billiard.pool import EX_OK, EX_RECYCLE
from celery import signals
from kombu import Exchange

from blobstore import BlobStoreError, open_blob_store
from ltx2.checkpoint import resolve_model
from ltx2.errors import LTX2Error
from tasks import leaving
from tasks.application import app
from tasks.broker import CLIPS, QUEUES, SEGMENTS, own_queue
from tasks.connection import check_rights, check_server, connect
from tasks.errors import ConfigError, LongtakeError
from tasks.recovery import Reconciler
from tasks.runtime import runtime

log = logging.getLogger(__name__)
_reconcilers: list[Reconciler] = []


@signals.celeryd_init.connect
def refuse_what_cannot_work(options: Mapping[str, Any], **_: Any) -> None:
    """End this worker before it takes work from servers that could lose it, or for a model that it does not have."""
    try:
        check_servers()
        check_model(options.get("queues") or QUEUES)
    except (LongtakeError, BlobStoreError, LTX2Error) as error:
        print(f"longtake: {error}", file=sys.stderr)
        raise SystemExit(1) from None


@signals.celeryd_after_setup.connect
def take_work_that_is_for_this_worker_alone(sender: str, **_: Any) -> None:
    """Listen to a queue of its own, too, where it takes segments at all."""
    leaving.begin()  # a worker that was forked from another process shares nothing with that one
    queues = app.amqp.queues
    if SEGMENTS in queues.consume_from:
        own = own_queue(sender)
        queues.select_add(own)
        own.exchange = Exchange()  # a binding to Celery's would stay in Redis when this worker is gone


@signals.worker_ready.connect
def start_reconciler(**_: Any) -> None:
    """Look for stuck jobs as long as this worker lives."""
    room = runtime()
    client = connect(room.settings.redis_url, patient=True)
    reconciler = Reconciler(client, room.jobs, room.blobs, room.publisher, room.settings)
    _reconcilers.append(reconciler)
    threading.Thread(target=reconciler.run, name="reconciler", daemon=True).start()


@signals.worker_shutting_down.connect
def leave(**_: Any) -> None:
    """Have the child keep nothing for this worker, and leave recovery to the others."""
    leaving.say()
    for reconciler in _reconcilers:
        reconciler.stop()


@signals.worker_process_init.connect
def prepare_child(**_: Any) -> None:
    """Load the model, and compile it, before the first task."""
    if not {SEGMENTS, CLIPS} & set(app.amqp.queues.consume_from):
        return
    room = runtime()
    try:
        room.warm_up()
    except (LTX2Error, ConfigError, ValueError) as error:
        log.error("model %s cannot be used: %s", room.settings.model, error)


@signals.worker_process_shutdown.connect
def leave_nothing_behind(exitcode: int, **_: Any) -> None:
    """Finish the clips in hand; at an end that cannot wait, leave them to other workers.

    A cold shutdown ends a child that has no task like a warm one, but without a word before.
    """
    beside = runtime().beside
    try:
        if exitcode == EX_RECYCLE or (exitcode == EX_OK and leaving.is_said()):
            beside.drain()
            return
    except SystemExit:  # this one came while the clips were waited for
        beside.lay_down()
        raise
    beside.lay_down()


def check_servers() -> None:
    """Refuse to start on servers that could lose work.

    Raises:
        ServerError, BlobStoreError: says which server, and what to set.
    """
    settings = runtime().settings
    client = connect(settings.redis_url)
    check_server(client, settings.redis_url)
    check_rights(client, settings.redis_url)
    open_blob_store(settings.blobs).check()


def check_model(queues: Iterable[str]) -> None:
    """Refuse to start where the model of this worker is missing or incomplete.

    Raises:
        CheckpointError: says what is missing.
    """
    settings = runtime().settings
    if {SEGMENTS, CLIPS} & set(queues):
        resolve_model(settings.model, settings.home / "models")
