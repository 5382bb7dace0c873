"""Commands for whoever runs a deployment: workers, checks, cleaning up, models."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict

import click

from tasks.cli.command import main
from tasks.client.display.terminal import show_json, show_line, show_lines
from tasks.client.display.workers import list_workers, worker_lines, workers_json
from tasks.client.files import private_files
from tasks.client.submit import collect_garbage
from tasks.embedded.kept_renders import delete_renders, expired_renders, kept_renders
from tasks.jobs.queues import QUEUES
from tasks.jobs.workers import made_up_name
from tasks.maintenance.doctor import examine
from tasks.settings import Settings

GRACE_HELP = "Seconds without a pin after which a blob is freed; LONGTAKE_BLOB_GRACE_S at most."


@main.command()
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(QUEUES),
    help="Take only this kind of work; may be repeated.",
)
@click.option(
    "--name",
    default=made_up_name,
    show_default="longtake-<random>@%h",
    help="The worker's name in Flower, different for each; %h is the host.",
)
@click.option("--loglevel", default="INFO", show_default=True, help="DEBUG, INFO, WARNING or ERROR.")
def worker(only: tuple[str, ...], name: str, loglevel: str) -> None:
    """Run a worker: segments, clips, films, and recovery.

    Start one per GPU, each with its own CUDA_VISIBLE_DEVICES. SIGTERM lets a running segment finish, SIGQUIT returns
    it to the queue.
    """
    from celery.bin.celery import celery

    Settings.from_env()  # its error is one line; Celery's for an application that cannot be loaded is a traceback
    arguments = ["--app", "tasks", "worker", "--hostname", name, "--loglevel", loglevel]
    arguments += ["--queues", ",".join(only or QUEUES), "--without-mingle"]  # a second spent on revoked tasks
    sys.exit(celery.main(args=arguments, standalone_mode=False))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON list.")
def workers(as_json: bool) -> None:
    """List live workers, and those that failed lately.

    Those that went silent in the last minutes are shown, too.
    """
    found = list_workers()
    for problem in found.unreadable:
        show_line(f"longtake: worker {problem}", err=True)
    if as_json:
        show_json(workers_json(found))
        return
    lines = list(worker_lines(found))
    show_lines(lines)
    if not lines:
        show_line("no worker; `longtake worker` starts one", err=True)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="The findings, as one JSON list.")
def doctor(as_json: bool) -> None:
    """Check servers, workers, queues and jobs.

    It says what is wrong and what to do.

    Exit status 0 if nothing is wrong, else 1.
    """
    examined = examine(Settings.from_env())
    findings = examined.findings
    if as_json:
        show_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            show_line(f"{finding.severity}: {finding.about}: {finding.problem}")
            if finding.advice:
                show_line(f"  {finding.advice}")
        if not findings:
            click.echo("nothing is wrong")
        click.echo(str(examined.read))
    sys.exit(1 if findings else 0)


@main.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be freed.")
@click.option("--grace", type=click.FloatRange(min=0), default=3600.0, show_default=True, help=GRACE_HELP)
@click.option("--renders", is_flag=True, help="Delete what renders of this user left, and nothing else.")
def gc(dry_run: bool, grace: float, renders: bool) -> None:
    """Free what no job needs.

    That is: jobs past their retention, pins without a job, blobs without a pin.

    Workers do the same regularly; they free blobs after LONGTAKE_BLOB_GRACE_S. What renders left under LONGTAKE_HOME is
    listed. Unfinished renders stay unless --renders is given, finished ones within LONGTAKE_RETENTION_S and
    LONGTAKE_RENDERS_BUDGET_BYTES.
    """
    if math.isnan(grace):  # which is in every range
        raise click.BadParameter("nan is not a number of seconds", param_hint="--grace")
    settings = Settings.from_env()
    kept = kept_renders(settings)
    gone = [] if dry_run else delete_renders(kept if renders else expired_renders(settings))
    for render in kept:
        show_line(f"{render}, {render.bytes:,} bytes{', deleted' if render in gone else ''}")
    if renders:
        if not kept:
            show_line(f"no render is kept under {settings.home}", err=True)
        return
    found = collect_garbage(dry_run=dry_run, grace_s=grace)
    blobs = found.blobs
    done = "would be freed" if dry_run else "freed"
    click.echo(f"jobs past their retention: {len(found.jobs)} {done}")
    click.echo(f"pins without a job: {len(found.owners)} {done}")
    click.echo(f"blobs without a pin: {blobs.blobs} {done}, {blobs.bytes:,} bytes")
    click.echo(f"quarantined blobs: {blobs.quarantined} {done}, {blobs.quarantined_bytes:,} bytes")


@main.group(no_args_is_help=False)
def model() -> None:
    """Models and LoRAs: folders, files and repositories."""


@model.command()
@click.argument("what")
@click.option("--text-encoder", help="What the spec of a model in files names as `text_encoder`.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
def check(what: str, text_encoder: str | None, as_json: bool) -> None:
    """Say what WHAT is, and whether it can be used.

    WHAT is a folder, a file or a hub id.

    Reads configs and headers only, and downloads no weights. Exit status 0 if a spec can name it, else 1.
    """
    from ltx2.checkpoints.reports.check import check_model
    from ltx2.checkpoints.reports.folders import ModelReport
    from ltx2.errors import CheckpointError, HubUnreachableError

    try:
        with private_files():
            found = check_model(what, Settings.from_env().home / "models", text_encoder)
    except CheckpointError as error:
        if not as_json or isinstance(error, HubUnreachableError):  # that the hub is out says nothing about WHAT
            raise
        found = ModelReport(what, "cannot be read", None, None, usable=False, problem=str(error))
    if as_json:
        show_json(asdict(found))
    else:
        show_lines(found.lines())
    sys.exit(0 if found.usable else 1)
