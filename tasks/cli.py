"""The command `longtake`."""

from __future__ import annotations

import errno
import json
import secrets
import sys
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn

import click
import redis

from blobstore import BlobStoreError
from blobstore.redis.urls import shown_url
from ltx2.errors import LTX2Error
from tasks.client.files import write_whole
from tasks.client.job import Job, raise_unless_done
from tasks.client.job_text import LIST_HEAD, full_json_of, json_of, lines_of, row_of
from tasks.client.progress import ProgressDisplay
from tasks.client.state_files import read_state
from tasks.client.submit import collect_garbage, iterate_waiting, submit
from tasks.client.workers import list_workers, worker_lines, workers_json
from tasks.errors import LongtakeError
from tasks.jobs.queues import QUEUES
from tasks.jobs.units import JobState
from tasks.maintenance.doctor import examine
from tasks.settings import Settings, misspelt
from tasks.spec.loader import load_spec

GRACE_HELP = "Seconds without a pin after which a blob is freed; LONGTAKE_BLOB_GRACE_S at most."
KEY_HELP = "Any text that names this submission: repeated with the same key, it returns the same job."
FROM_STATE_HELP = "Continue this state, a file written by `longtake state export`."
STATES = [state.value for state in JobState]
STATE_HELP = "Only jobs in this state; may be repeated."
spec_argument = click.argument("spec", type=click.Path(path_type=Path))
job_argument = click.argument("job")
state_option = click.option("--from-state", "state", type=click.Path(path_type=Path), help=FROM_STATE_HELP)
out_option = click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path),
    required=True,
    help="The film's file, such as film.mp4.",
)


class _Longtake(click.Group):
    """Shows every expected error as one line on stderr, with exit status 1."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (LongtakeError, LTX2Error, BlobStoreError) as error:
            _fail(str(error))
        except redis.RedisError as error:
            _fail(f"Redis at {shown_url(Settings.from_env().redis_url)} (LONGTAKE_REDIS_URL): {error}")
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # the reader of our output has closed it: click exits quietly
            _fail(str(error))
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else context.command_path
            _fail(f"{error.format_message()} See `{command} --help`.", status=2)


def _fail(message: str, *, status: int = 1) -> NoReturn:
    for line in message.splitlines():
        click.echo(f"longtake: {line}", err=True)
    sys.exit(status)


@click.group(cls=_Longtake, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="longtake", message="longtake %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Render videos of any length with LTX-2, segment by segment.

    On one machine: `longtake render SPEC -o film.mp4`. On many: start `longtake worker` where the GPUs are,
    then `longtake submit SPEC`, `watch` and `save` from anywhere. LONGTAKE_REDIS_URL says where Redis is.
    """
    if context.invoked_subcommand != "worker":  # which says the same when it loads the application
        for line in misspelt():
            click.echo(f"longtake: {line}", err=True)


@main.command()
@spec_argument
@out_option
@state_option
@click.option("--report", "folder", type=click.Path(path_type=Path), help="Write a continuity report into this folder.")
def render(spec: Path, out: Path, state: Path | None, folder: Path | None) -> None:
    """Render SPEC on this machine, with its own Redis and worker.

    If interrupted, run the same command again to resume. A summary of the film is written next to it, as .json.
    """
    from tasks.embedded.render import render as render_here

    show = ProgressDisplay()
    job = load_spec(spec)
    try:
        summary, faults = render_here(
            job,
            out,
            state=read_state(state) if state else None,
            report_folder=folder,
            settings=Settings.from_env(),
            show=show,
        )
    except KeyboardInterrupt:
        show.say("Interrupted. Run the same command again to resume.")
        sys.exit(130)
    _show_summary(show, out, summary)
    if folder:
        _show_report(folder, faults)


def _show_summary(show: ProgressDisplay, out: Path, summary: dict[str, Any]) -> None:
    segments = summary["segments"]
    engine = sum(segment["engine_s"] for segment in segments)
    waits = [segment["handoff_s"] for segment in segments if segment["handoff_s"] is not None]
    show.say(
        f"{out}  {summary['duration_s']:.2f} s  {summary['width']}x{summary['height']}  {out.stat().st_size:,} bytes"
    )
    count = f"{len(segments)} segment{'s' if len(segments) > 1 else ''}, {summary['frames']} frames"
    show.say(f"{count}: {engine:.1f} s rendering, {sum(waits):.1f} s between segments")


def _show_report(folder: Path, faults: list[str]) -> None:
    click.echo("\n".join(faults) or "every join is within bounds")
    click.echo(f"{folder / 'seams.png'}, {folder / 'sheet.png'}, {folder / 'seams.json'}")


@main.command(name="submit")
@spec_argument
@state_option
@click.option("--idempotency-key", "key", help=KEY_HELP)
def submit_(spec: Path, state: Path | None, key: str | None) -> None:
    """Queue SPEC and print the job's id."""
    job = submit(load_spec(spec), from_state=state, idempotency_key=key)
    click.echo(job.id)


@main.command()
@job_argument
def watch(job: str) -> None:
    """Follow JOB until it finishes; exit status 1 unless it is done."""
    show = ProgressDisplay()
    watched = Job(job)
    show.follow(watched.watch(every_poll=True), watched.waiting)
    raise_unless_done(watched.status())


@main.command()
@job_argument
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
def status(job: str, as_json: bool) -> None:
    """Show the state and progress of JOB."""
    found, workers = Job(job), list_workers()
    if as_json:
        click.echo(json.dumps(full_json_of(found, workers), indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(lines_of(found, workers)))


@main.command(name="list")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help=STATE_HELP)
@click.option("--limit", type=click.IntRange(min=1), help="Only so many of the newest jobs, newest first.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object per line and job.")
def list_(states: tuple[str, ...], limit: int | None, as_json: bool) -> None:
    """List the jobs, oldest first."""
    jobs = iterate_waiting(states=states, limit=limit)
    first = list(islice(jobs, 1))  # an error here comes before any output
    if not as_json:
        click.echo(LIST_HEAD)
    for status, wait in chain(first, jobs):
        click.echo(json.dumps(json_of(status, wait), ensure_ascii=False) if as_json else row_of(status, wait))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON list.")
def workers(as_json: bool) -> None:
    """List the workers that are alive, and those that failed or went silent in the last minutes."""
    found = list_workers()
    for problem in found.unreadable:
        click.echo(f"longtake: worker {problem}", err=True)
    if as_json:
        click.echo(json.dumps(workers_json(found), indent=2, ensure_ascii=False))
        return
    for line in worker_lines(found):
        click.echo(line)


@main.command()
@job_argument
def cancel(job: str) -> None:
    """Stop JOB; rendered segments stay until its retention ends, and can be exported."""
    Job(job).cancel()


@main.command()
@job_argument
def pause(job: str) -> None:
    """Pause JOB: running segments finish, no new ones start."""
    Job(job).pause()


@main.command()
@job_argument
def resume(job: str) -> None:
    """Resume a paused JOB."""
    Job(job).resume()


@main.command()
@job_argument
def retry(job: str) -> None:
    """Retry a failed JOB from the failed segment, or rebuild a lost film."""
    Job(job).retry()


@main.command()
@job_argument
def forget(job: str) -> None:
    """Delete the record of an ended JOB. Its blobs are freed later, or at once by `longtake gc --grace 0`."""
    Job(job).forget()


@main.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be freed.")
@click.option("--grace", type=click.FloatRange(min=0), default=3600.0, show_default=True, help=GRACE_HELP)
def gc(dry_run: bool, grace: float) -> None:
    """Free what no job needs: jobs past their retention, pins without a job, blobs without a pin.

    Workers do the same regularly; they free blobs after LONGTAKE_BLOB_GRACE_S.
    """
    found = collect_garbage(dry_run=dry_run, grace_s=grace)
    blobs = found.blobs
    done = "would be freed" if dry_run else "freed"
    click.echo(f"jobs past their retention: {len(found.jobs)} {done}")
    click.echo(f"pins without a job: {len(found.owners)} {done}")
    click.echo(f"blobs without a pin: {blobs.blobs} {done}, {blobs.bytes:,} bytes")
    click.echo(f"quarantined blobs: {blobs.quarantined} {done}, {blobs.quarantined_bytes:,} bytes")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="The findings, as one JSON list.")
def doctor(as_json: bool) -> None:
    """Check servers, workers, queues and jobs; say what is wrong and what to do.

    Exit status 0 if nothing is wrong, else 1.
    """
    examined = examine(Settings.from_env())
    findings = examined.findings
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            click.echo(f"{finding.severity}: {finding.about}: {finding.problem}")
            if finding.advice:
                click.echo(f"  {finding.advice}")
        if not findings:
            click.echo("nothing is wrong")
        click.echo(str(examined.read))
    sys.exit(1 if findings else 0)


@main.command()
@job_argument
@out_option
def save(job: str, out: Path) -> None:
    """Write the film of JOB, and its summary next to it as .json."""
    Job(job).save(out)


@main.command()
@job_argument
@click.option(
    "-o", "--output", "folder", type=click.Path(path_type=Path), required=True, help="The folder for the files."
)
def report(job: str, folder: Path) -> None:
    """Check how well the segments of JOB's film join; write a chart, a contact sheet and all figures.

    Measures change between frames, loudness, pitch and clicks; in simple pictures it also follows shapes.
    """
    _show_report(folder, Job(job).write_report(folder))


@main.group(no_args_is_help=False)
def model() -> None:
    """Models and LoRAs: folders, files and repositories."""


@model.command()
@click.argument("what")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
def check(what: str, as_json: bool) -> None:
    """Say what WHAT is, a folder, a file or a hub id, and whether it can be used.

    Reads configs and headers only, and downloads no weights. Exit status 0 if a spec can name it, else 1.
    """
    from ltx2.checkpoints.model_check import check_model

    found = check_model(what, Settings.from_env().home / "models")
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(found.lines()))
    sys.exit(0 if found.usable else 1)


@main.group(no_args_is_help=False)
def state() -> None:
    """Continuation states as files."""


@state.command()
@job_argument
@click.option("--segment", type=click.IntRange(min=0), required=True, help="After which segment, from 0.")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="The file; default: standard output.")
def export(job: str, segment: int, out: Path | None) -> None:
    """Write the state of JOB after a segment; another job can continue it."""
    text = json.dumps(Job(job).state(segment)) + "\n"
    if out is None:
        click.echo(text, nl=False)
    else:
        write_whole({out: text.encode()})


@main.command()
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(QUEUES),
    help="Take only this kind of work; may be repeated.",
)
@click.option(
    "--name",
    default=lambda: f"longtake-{secrets.token_hex(3)}@%h",
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
    arguments += ["--queues", ",".join(only or QUEUES)]
    sys.exit(celery.main(args=arguments, standalone_mode=False))


if __name__ == "__main__":
    main()
