"""The life of a worker process: checks at start, the reconciler beside the pool, the model in the child."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable
from typing import Any

from celery import signals

from blobstore import BlobStoreError, open_blob_store
from ltx2.checkpoint import resolve_model
from ltx2.errors import LTX2Error
from tasks.application import app
from tasks.broker import CLIPS, SEGMENTS
from tasks.connection import check_rights, check_server, connect
from tasks.errors import ConfigError, LongtakeError
from tasks.recovery import Reconciler
from tasks.runtime import runtime

log = logging.getLogger(__name__)
_reconcilers: list[Reconciler] = []


@signals.worker_init.connect
def refuse_bad_servers(**_: Any) -> None:
    """End this worker before it takes work from servers that could lose it."""
    try:
        check_servers()
    except (LongtakeError, BlobStoreError) as error:
        print(f"longtake: {error}", file=sys.stderr)
        raise SystemExit(1) from None


@signals.worker_ready.connect
def start_reconciler(**_: Any) -> None:
    """Look for stuck jobs as long as this worker lives."""
    room = runtime()
    client = connect(room.settings.redis_url, patient=True)
    reconciler = Reconciler(client, room.jobs, room.blobs, room.publisher, room.settings)
    _reconcilers.append(reconciler)
    threading.Thread(target=reconciler.run, name="reconciler", daemon=True).start()


@signals.worker_shutting_down.connect
def stop_reconciler(**_: Any) -> None:
    """Leave recovery to the others."""
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
