"""Commands for jobs of a deployment: submit, follow, steer."""

from __future__ import annotations

import json
import sys
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click

from tasks.cli.command import (
    before_option,
    force_option,
    job_argument,
    main,
    model_option,
    seed_option,
    show_warnings,
    spec_argument,
    state_option,
)
from tasks.client.display.job_text import LIST_HEAD, full_json_of, json_of, lines_of, row_of
from tasks.client.display.pace import pace_in_deployment
from tasks.client.display.plan import plan_lines
from tasks.client.display.progress import ProgressDisplay, describe
from tasks.client.display.terminal import show_json, show_line, show_lines
from tasks.client.display.workers import list_workers
from tasks.client.edit import edit as edit_job
from tasks.client.files import check_new, write_new
from tasks.client.inputs.video import state_from_video
from tasks.client.job import Job, find_job, raise_unless_done
from tasks.client.submissions.small_model import prompt_warnings
from tasks.client.submit import check_only, iterate_waiting, submit
from tasks.jobs.queues import Priority
from tasks.jobs.units import JobState, rendered_text, segments_text
from tasks.messaging.tracing import tracing
from tasks.settings import Settings
from tasks.spec.loader import changed_spec, load_spec

KEY_HELP = "Any text that names this submission: repeated with the same key, it returns the same job."
priority_option = click.option(
    "--priority",
    type=click.Choice([priority.value for priority in Priority]),
    default=Priority.NORMAL.value,
    show_default=True,
    help="high: before the work of all jobs that are not.",
)
STATES = [state.value for state in JobState]
STATE_HELP = "Only jobs in this state; may be repeated."


@main.command(name="submit")
@spec_argument
@state_option
@click.option("--idempotency-key", "key", help=KEY_HELP)
@model_option
@seed_option
@before_option
@priority_option
@click.option("--dry-run", is_flag=True, help="Only check the spec, and say what would be rendered.")
def submit_(
    spec: Path,
    state: Path | None,
    key: str | None,
    model: str | None,
    seed: int | None,
    before: bool,
    priority: str,
    dry_run: bool,
) -> None:
    """Queue SPEC and print the job's id. SPEC is a file; - is standard input."""
    wanted = changed_spec(load_spec(spec), model=model, seed=seed, before=before or None)
    if dry_run:
        settings = Settings.from_env()
        warnings = check_only(wanted, from_state=state, settings=settings).warnings
        pace = pace_in_deployment(settings, wanted)
        show_lines(plan_lines(wanted, wanted.model or settings.model, continues=state is not None, pace=pace), err=True)
        show_warnings([*warnings, *prompt_warnings(wanted, settings)])
        return
    job = submit(wanted, from_state=state, idempotency_key=key, priority=Priority(priority))
    _print_submitted(job)


def _print_submitted(job: Job) -> None:
    click.echo(job.id)
    click.echo(f"Next: longtake watch {job.id}; longtake save {job.id} -o film.mp4", err=True)


@main.command()
@job_argument
def watch(job: str) -> None:
    """Follow JOB until it finishes; exit status 1 unless it is done."""
    show = ProgressDisplay()
    watched = find_job(job)
    try:
        show.follow(watched.watch(every_poll=True), watched.waiting)
    except KeyboardInterrupt:
        show.say(f"Stopped watching. The job goes on; `longtake cancel {watched.id}` stops it.")
        sys.exit(130)
    raise_unless_done(watched.status())


@main.command()
@job_argument
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
def status(job: str, as_json: bool) -> None:
    """Show the state and progress of JOB."""
    found, workers = find_job(job), list_workers()
    if as_json:
        show_json(full_json_of(found, workers))
    else:
        show_lines(lines_of(found, workers))


@main.command(name="list")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help=STATE_HELP)
@click.option("--limit", type=click.IntRange(min=1), help="Only so many of the newest jobs, newest first.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object per line and job.")
def list_(states: tuple[str, ...], limit: int | None, as_json: bool) -> None:
    """List the jobs, oldest first."""
    jobs = iterate_waiting(states=states, limit=limit)
    first = list(islice(jobs, 1))  # an error here comes before any output
    if not first:
        such = f" is {' or '.join(states)}" if states else ""
        show_line(f"no job{such}; `longtake submit SPEC` queues one", err=True)
    elif not as_json:
        click.echo(LIST_HEAD)
    for status, wait in chain(first, jobs):
        if as_json:
            show_json(json_of(status, wait), indent=None)
        else:
            show_line(row_of(status, wait))


@main.command()
@job_argument
def cancel(job: str) -> None:
    """Stop JOB for good.

    Rendered segments stay until its retention ends, and can be exported.
    """
    found = find_job(job)
    tracing.start()
    try:
        found.cancel()
    finally:
        tracing.stop()
    _show_state(found)


@main.command()
@job_argument
def pause(job: str) -> None:
    """Pause JOB: running segments finish, no new ones start."""
    found = find_job(job)
    found.pause()
    _show_state(found)


@main.command()
@job_argument
def resume(job: str) -> None:
    """Resume a paused JOB."""
    found = find_job(job)
    found.resume()
    _show_state(found)


@main.command()
@job_argument
def retry(job: str) -> None:
    """Retry a failed JOB where it failed, or rebuild a lost film."""
    found = find_job(job)
    found.retry()
    _show_state(found)


def _show_state(job: Job) -> None:
    show_line(f"job {job.id}: {describe(job.status(), wait=job.waiting())}")


@main.command()
@job_argument
@click.argument("spec", required=False, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--after", type=click.IntRange(min=0), required=True, help="The last segment to share, from 0.")
def fork(job: str, spec: Path | None, after: int) -> None:
    """Start a new job from the first segments of JOB, and print its id. They are shared, not rendered again.

    It goes on with the segments of SPEC after that one; without SPEC, with the rest of JOB.
    """
    made = find_job(job).fork(after, load_spec(spec) if spec else None)
    _print_submitted(made)


@main.command()
@job_argument
@spec_argument
@click.option("--idempotency-key", "key", help="Any text that names this request: repeated, it adds nothing.")
def append(job: str, spec: Path, key: str | None) -> None:
    """Add the segments of SPEC to the end of JOB. A job that is done continues; its film stays until the next one.

    What SPEC says above its segments must be as in JOB, and may be left out.
    """
    added = find_job(job).append(load_spec(spec, appended=True), idempotency_key=key)
    show_line(f"appended: {segments_text(added)}", err=True)


@main.command()
@job_argument
@click.argument("segment", type=click.IntRange(min=0))
@click.argument("text")
def prompt(job: str, segment: int, text: str) -> None:
    """Replace the prompt of SEGMENT, counted from 0, with TEXT.

    It is refused if a worker has begun the segment.
    """
    found = find_job(job)
    found.replace_prompt(segment, text)
    show_line(f"job {found.id}: segment {segment} has another prompt")


@main.command()
@job_argument
def close(job: str) -> None:
    """Wait for no more segments of an open JOB.

    Its film is joined once all are rendered.
    """
    found = find_job(job)
    found.close_end()
    rendered = rendered_text(range(found.status().segments))
    show_line(f"job {found.id} is closed: its film is joined once {rendered}")


@main.command()
@job_argument
@click.option("--segment", type=click.IntRange(min=0), help="Up to which segment, from 0; default: the awaited one.")
@click.option("--all", "every", is_flag=True, help="All segments, also those to come.")
def approve(job: str, segment: int | None, every: bool) -> None:
    """Approve the segment for which JOB waits, so that it goes on."""
    found = find_job(job)
    found.approve(segment, all=every)
    approved = found.status().approved
    what = "all segments" if approved is None else segments_text(range(approved))
    show_line(f"job {found.id}: {what} approved")


@main.command()
@job_argument
@spec_argument
@before_option
@click.option("--dry-run", is_flag=True, help="Only say what would be rendered again.")
def edit(job: str, spec: Path, before: bool, dry_run: bool) -> None:
    """Make JOB's film that of SPEC, the changed spec of all of it.

    The id of the job that renders it is printed.

    Says first which segments are kept and which are rendered again. That is done in JOB if nothing changes that is
    rendered already, else in a fork or a new job.
    """
    found, wanted = find_job(job), changed_spec(load_spec(spec), before=before or None)
    plan = found.plan_edit(wanted)
    show_lines(plan.lines(), err=True)
    if not dry_run:
        _print_submitted(edit_job(found, wanted, plan=plan))


@main.command()
@job_argument
def forget(job: str) -> None:
    """Delete the record of an ended JOB. Its blobs are freed later, or at once by `longtake gc --grace 0`."""
    found = find_job(job)
    found.forget()
    show_line(f"job {found.id} is deleted")


@main.group(no_args_is_help=False)
def state() -> None:
    """Continuation states as files."""


state_file_option = click.option(
    "-o", "--output", "out", type=click.Path(path_type=Path), help="The file; default: standard output."
)


@state.command()
@job_argument
@click.option("--segment", type=click.IntRange(min=0), required=True, help="After which segment, from 0.")
@state_file_option
@force_option
def export(job: str, segment: int, out: Path | None, force: bool) -> None:
    """Write the state of JOB after a segment.

    Another job can continue it.
    """
    _write_state(find_job(job).state(segment), out, force=force)


@state.command()
@click.argument("video", type=click.Path(path_type=Path))
@click.option(
    "--spec", "spec", type=click.Path(path_type=Path), required=True, help="The spec of the job that will continue it."
)
@model_option
@state_file_option
@force_option
def from_video(video: Path, spec: Path, model: str | None, out: Path | None, force: bool) -> None:
    """Write the state after the end of VIDEO.

    VIDEO is an MP4, MOV, WebM or MKV; the state is for the size, rate and model of a spec.

    The model is loaded on this machine to encode the sound.
    """
    wanted = changed_spec(load_spec(spec), model=model).with_absolute_paths()
    if out is not None and str(out) != "-":
        check_new(out, overwrite=force)  # before the model is loaded
    _write_state(state_from_video(video, wanted, Settings.from_env()), out, force=force)


def _write_state(envelope: dict[str, Any], out: Path | None, *, force: bool) -> None:
    text = json.dumps(envelope) + "\n"
    if out is None or str(out) == "-":
        click.echo(text, nl=False)
        return
    write_new(out, text.encode(), overwrite=force)
    show_line(f"{out}: {len(text):,} bytes. Next: longtake submit SPEC --from-state {out}, or render", err=True)
