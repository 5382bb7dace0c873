"""The life of a worker: checks at start, the reconciler in the main process, the model in the child."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from billiard import active_children
from billiard.pool import EX_OK, EX_RECYCLE
from celery import signals
from celery.platforms import EX_FAILURE
from kombu import Exchange

from blobstore import BlobStoreError
from ltx2.checkpoints.resolve import resolve_model
from ltx2.errors import LTX2Error, RankError
from ltx2.media.temporary import delete_abandoned
from tasks.errors import HostFaultError, LongtakeError
from tasks.field_errors import escaped
from tasks.jobs.connection import connect
from tasks.jobs.queues import CLIPS, QUEUES, SEGMENTS
from tasks.logs import formatter_for
from tasks.maintenance.reconciler import Reconciler, open_reconciler_blobs
from tasks.maintenance.server_findings import check_servers
from tasks.messaging.tracing import tracing
from tasks.settings import Settings
from tasks.worker import metrics
from tasks.worker.app import app
from tasks.worker.context import process
from tasks.worker.film_task import FILM_FOLDERS
from tasks.worker.gpu import gpu_in_use
from tasks.worker.heartbeats.heartbeat import Heartbeat, describe_worker
from tasks.worker.outage_lines import is_news

log = logging.getLogger(__name__)
HOST_FAULT_POLL_S = 0.2
LOADS_TRIED = 3  # by each child: one that dies while it loads may have been killed from outside
PREFORK = "celery.concurrency.prefork.TaskPool"


class ReconcilerThread:
    """The reconciler of a worker's main process, in a thread."""

    def __init__(self) -> None:
        self.reconciler: Reconciler | None = None

    def start(self) -> None:
        """Reconcile from now on."""
        deployment, settings = process.context.deployment, process.context.settings
        client = connect(settings.redis_url, patient=True, reply_timeout_s=settings.reply_timeout_s)
        blobs = open_reconciler_blobs(settings)
        self.reconciler = Reconciler(client, deployment.jobs, blobs, deployment.publisher, settings)
        threading.Thread(target=self.reconciler.run, name="reconciler", daemon=True).start()

    def stop(self) -> None:
        """Leave recovery to other workers."""
        if self.reconciler is not None:
            self.reconciler.stop()


reconciler_thread = ReconcilerThread()


def watch_for_host_fault() -> None:
    """End this worker, with a non-zero exit status, when a child reports that its host cannot render.

    It ends at once: a shutdown would wait for the child that replaces the one that reported. The reconciler of another
    worker publishes a message that this one has taken.
    """
    while not process.shutdown.is_set():
        if process.host_fault.text:
            log.critical("this worker ends: its host cannot render")
            logging.disable()  # so that the reason is the last line, where supervisors and people look for it
            for pid in [child.pid for child in active_children() if child.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if process.heartbeat is not None:
                process.heartbeat.end_by_fault(process.host_fault.text)
            print(
                f"longtake: {escaped(process.host_fault.text)}", file=sys.__stderr__, flush=True
            )  # not Celery's sys.stderr
            os._exit(EX_FAILURE)
        time.sleep(HOST_FAULT_POLL_S)


@signals.celeryd_init.connect
def check_at_start(options: Mapping[str, Any], **_: Any) -> None:
    """Exit before taking work when a server could lose it, or when the model is missing.

    Also deletes what a killed worker has left of a film. All files of a worker are its user's alone.
    """
    os.umask(0o077)
    settings = process.context.settings
    try:
        check_servers(settings)
        check_model(settings, options.get("queues") or QUEUES)
    except (LongtakeError, BlobStoreError, LTX2Error) as error:
        print(f"longtake: {escaped(error)}", file=sys.stderr)
        raise SystemExit(1) from None
    delete_abandoned(FILM_FOLDERS)


@signals.after_setup_logger.connect
@signals.after_setup_task_logger.connect
def format_log_lines(logger: logging.Logger, **_: Any) -> None:
    """Write log lines in the format that LONGTAKE_LOG names, without secrets, and an outage only once."""
    formatter = formatter_for(process.context.settings)
    for handler in logger.handlers:
        handler.setFormatter(formatter)
        handler.addFilter(is_news)


@signals.celeryd_after_setup.connect
def check_pool(instance: Any, **_: Any) -> None:
    """Exit unless every child has its own engine and GPUs: in a pool of threads, two jobs would share one."""
    pool = instance.pool_cls
    name = f"{pool.__module__}.{pool.__qualname__}" if isinstance(pool, type) else str(pool)
    if name != PREFORK:
        print(f"longtake: the pool must be prefork, not {name}: its tasks would share an engine", file=sys.stderr)
        raise SystemExit(1)
    gpus = process.context.settings.gpus
    if gpus != "1" and instance.concurrency > 1:
        print(
            f"longtake: with LONGTAKE_GPUS={gpus} the concurrency must be 1, not {instance.concurrency}: the children "
            "would share GPUs; start one worker for each group of them",
            file=sys.stderr,
        )
        raise SystemExit(1)


@signals.celeryd_after_setup.connect
def consume_sticky_queue(sender: str, **_: Any) -> None:
    """Consume this worker's sticky queue, too, if it takes segments."""
    process.start_worker()
    queues = app.amqp.queues
    info = describe_worker(process.context.settings, sender, process.token, queues.consume_from)
    process.heartbeat = Heartbeat(
        process.context.settings, info, process.activity, process.shutdown, process.blob_outage, process.render_class
    )
    threading.Thread(target=watch_for_host_fault, name="host fault", daemon=True).start()
    if SEGMENTS in queues.consume_from:
        sticky = process.sticky_queue(sender)
        queues.select_add(sticky)
        sticky.exchange = Exchange()  # a binding to Celery's exchange would stay in Redis after this worker is gone


@signals.worker_ready.connect
def start_threads(**_: Any) -> None:
    """Look for stuck jobs, and write heartbeats, as long as this worker lives."""
    tracing.start_in_parent()
    reconciler_thread.start()
    if process.heartbeat is not None:
        process.heartbeat.start()


@signals.worker_ready.connect
def let_children_die(sender: Any, **_: Any) -> None:
    """Go on although a child may have died already; Celery would end the worker with a traceback.

    Another child tries again, and `prepare_child` gives up after a few.
    """
    sender.pool.did_start_ok = lambda: True


@signals.worker_shutting_down.connect
def begin_shutdown(**_: Any) -> None:
    """Set the shutdown flag for the child, and leave recovery to other workers."""
    process.shutdown.set()
    reconciler_thread.stop()


@signals.worker_shutdown.connect
def end_heartbeat(**_: Any) -> None:
    """Remove this worker from the list of workers: it has finished its work."""
    if process.heartbeat is not None:
        process.heartbeat.stop()


@signals.worker_process_init.connect
def prepare_child(**_: Any) -> None:
    """Load the model, and compile it, before the first task. Figures and traces are those of this child.

    What fails here is a fault of this host, not of a job: its device, a library, or LONGTAKE_MODEL. The child exits
    before it takes a message, and the worker ends.
    """
    try:
        metrics.serve(process.context.settings)
    except OSError as error:
        log.error("no figures for Prometheus: %s", error)
    tracing.start()
    if not {SEGMENTS, CLIPS} & set(app.amqp.queues.consume_from):
        process.activity.ready(None)
        return
    if process.host_fault.text:  # this child replaces the one that reported it
        os._exit(EX_FAILURE)
    context = process.context
    process.activity.loading()
    try:
        if process.loads.begin() >= LOADS_TRIED * app.conf.worker_concurrency:
            reason = process.load_fault.text or "its process dies every time"
            raise HostFaultError(f"model {context.settings.model} cannot be loaded: {reason}")
        process.load_fault.text = ""
        context.engines.warm_up()
        gpu = gpu_in_use(context.settings.device, context.engines.ranks)
    except RankError as error:  # as if this process had been killed: the next one tries again
        log.error("the model cannot be loaded on all GPUs, trying again: %s", error)
        process.load_fault.text = str(error)
        os._exit(EX_FAILURE)
    except Exception as error:
        report = str(error) if isinstance(error, HostFaultError) else f"{type(error).__name__}: {error}"
        if isinstance(error.__cause__ or error, LTX2Error):  # its message says what is wrong
            log.critical("this host cannot render: %s", report)
        else:
            log.exception("this host cannot render")
        process.host_fault.text = report
        os._exit(EX_FAILURE)
    process.loads.succeed()
    process.render_class.text = context.engines.render_class
    process.activity.ready(gpu, context.engines.ranks)


@signals.worker_process_shutdown.connect
def finish_or_release_background_work(exitcode: int, **_: Any) -> None:
    """Finish queued clips in a warm shutdown; in a cold one, release them to other workers.

    In a cold shutdown an idle child exits with the same code as in a warm one, but the shutdown flag is not set.
    """
    background = process.context.background
    try:
        if exitcode == EX_RECYCLE or (exitcode == EX_OK and process.shutdown.is_set()):
            background.drain()
            return
    except SystemExit:  # a cold shutdown began while the clips were awaited
        background.release_all()
        raise
    background.release_all()


@signals.worker_process_shutdown.connect
def export_last_spans(**_: Any) -> None:
    """Export the spans of what `finish_or_release_background_work` has finished; it is called first."""
    tracing.stop()


@signals.worker_process_shutdown.connect
def end_without_pause(exitcode: int, **_: Any) -> None:
    """End at once in a warm shutdown; it is called last.

    billiard would tell the main process, which no longer listens, and sleep for a second. Results are in a pipe by now,
    and the main process reads them after this process has ended, too.
    """
    if exitcode == EX_OK and process.shutdown.is_set():
        os._exit(exitcode)


def check_model(settings: Settings, queues: Iterable[str]) -> None:
    """Refuse to start where the model of this worker is missing or incomplete.

    Raises:
        CheckpointError: says what is missing.
    """
    if {SEGMENTS, CLIPS} & set(queues):
        resolve_model(settings.model, settings.home / "models")
