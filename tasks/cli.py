"""The command `longtake`."""

from __future__ import annotations

import errno
import json
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import click
import redis
from rich.console import Console
from rich.table import Table

from blobstore import BlobStoreError
from blobstore.redis.client import redacted
from ltx2.errors import LTX2Error
from tasks.client.files import write_whole
from tasks.client.job import Job, raise_unless_done
from tasks.client.progress import Show, describe
from tasks.client.state_files import read_state
from tasks.client.submit import collect_garbage, list_jobs, submit
from tasks.errors import LongtakeError
from tasks.jobs.records import FROM_OUTSIDE
from tasks.settings import Settings
from tasks.spec.loader import load_spec

QUEUES = ("segments", "clips", "films")
GRACE_HELP = "Seconds that a blob must have been without a pin; LONGTAKE_BLOB_GRACE_S at most."
FROM_STATE_HELP = "Go on from this state, a file that `longtake state export` wrote."
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
    """Every error that people can cause becomes one line on stderr and exit status 1."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (LongtakeError, LTX2Error, BlobStoreError) as error:
            _fail(str(error))
        except redis.RedisError as error:
            _fail(f"Redis at {redacted(Settings.from_env().redis_url)} (LONGTAKE_REDIS_URL): {error}")
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # whoever read our output has seen enough: click ends quietly
            _fail(str(error))
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else context.command_path
            _fail(f"{error.format_message()} See `{command} --help`.", status=2)


def _fail(message: str, *, status: int = 1) -> NoReturn:
    for line in message.splitlines():
        click.echo(f"longtake: {line}", err=True)
    sys.exit(status)


@click.group(cls=_Longtake, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="longtake")
def main() -> None:
    """Render videos of any length with LTX-2, segment by segment.

    On one machine: `longtake render SPEC -o film.mp4`. On many: start `longtake worker` where the GPUs are,
    then `longtake submit SPEC`, `watch` and `save` from anywhere. LONGTAKE_REDIS_URL says where Redis is.
    """


@main.command()
@spec_argument
@out_option
@state_option
@click.option("--report", "folder", type=click.Path(path_type=Path), help="Write into this folder how segments join.")
def render(spec: Path, out: Path, state: Path | None, folder: Path | None) -> None:
    """Render SPEC here and now, with a Redis and a worker of its own.

    Interrupted, the same command goes on where it was. The film's report is written beside it, as .json.
    """
    from tasks.embedded.render import render as render_here

    show = Show()
    job = load_spec(spec)
    try:
        report, wrong = render_here(
            job,
            out,
            state=read_state(state) if state else None,
            continuity=folder,
            settings=Settings.from_env(),
            show=show,
        )
    except KeyboardInterrupt:
        show.say("Interrupted. The same command goes on where it was.")
        sys.exit(130)
    _summarise(show, out, report)
    if folder:
        _tell_joins(folder, wrong)


def _summarise(show: Show, out: Path, report: dict[str, Any]) -> None:
    segments = report["segments"]
    engine = sum(segment["engine_s"] for segment in segments)
    waits = [segment["handoff_s"] for segment in segments if segment["handoff_s"] is not None]
    show.say(f"{out}  {report['duration_s']:.2f} s  {report['width']}x{report['height']}  {out.stat().st_size:,} bytes")
    count = f"{len(segments)} segment{'s' if len(segments) > 1 else ''}, {report['frames']} frames"
    show.say(f"{count}: {engine:.1f} s in the model, {sum(waits):.1f} s between")


def _tell_joins(folder: Path, wrong: list[str]) -> None:
    click.echo("\n".join(wrong) or "every join is within bounds")
    click.echo(f"{folder / 'seams.png'}, {folder / 'sheet.png'}, {folder / 'seams.json'}")


@main.command(name="submit")
@spec_argument
@state_option
def submit_(spec: Path, state: Path | None) -> None:
    """Queue SPEC and print the job's id."""
    job = submit(load_spec(spec), from_state=state)
    click.echo(job.id)


@main.command()
@job_argument
def watch(job: str) -> None:
    """Show how JOB goes until it has ended; exit status 1 unless it is done."""
    show = Show()
    watched = Job(job)
    show.follow(watched.watch())
    raise_unless_done(watched.status())


@main.command()
@job_argument
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
def status(job: str, as_json: bool) -> None:
    """Show where JOB stands."""
    found = Job(job)
    standing = found.status()
    if as_json:
        data = asdict(standing) | {"segments_committed": found.report()["segments"]}
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
        return
    click.echo(f"{standing.job_id}  {standing.title}")
    told = describe(standing)
    told = told if told.startswith(standing.state) else f"{standing.state}: {told}"
    click.echo(f"  {told}; {standing.committed} rendered, {standing.clips} clips")
    if standing.reason:
        where = "film" if standing.failed_segment == FROM_OUTSIDE else f"segment {standing.failed_segment}"
        where = f"{where}, attempt {standing.attempts}: " if standing.attempts else ""
        click.echo(f"  {where}{standing.reason}")
    for segment in found.report()["segments"]:
        click.echo(
            f"  segment {segment['index']}  {segment['engine_s']:.1f} s  seed {segment['seed']}  {segment['prompt']}"
        )


@main.command(name="list")
def list_() -> None:
    """List the jobs, oldest first."""
    table = Table(box=None, pad_edge=False)
    for heading in ("job", "state", "segments", "created", "title"):
        table.add_column(heading, no_wrap=heading != "title")
    for job in list_jobs():
        created = datetime.fromtimestamp(job.created_at).isoformat(" ", "seconds")
        table.add_row(job.job_id, job.state, f"{job.committed}/{job.segments}", created, job.title)
    Console(highlight=False, markup=False).print(table)


@main.command()
@job_argument
def cancel(job: str) -> None:
    """Stop JOB; what is rendered stays for a while, and can be exported."""
    Job(job).cancel()


@main.command()
@job_argument
def pause(job: str) -> None:
    """Hand out no more work of JOB; what is done stays, and a segment under way is finished."""
    Job(job).pause()


@main.command()
@job_argument
def resume(job: str) -> None:
    """Go on with a paused JOB."""
    Job(job).resume()


@main.command()
@job_argument
def retry(job: str) -> None:
    """Take a failed JOB up again where it failed; join a film that was lost once more."""
    Job(job).retry()


@main.command()
@job_argument
def forget(job: str) -> None:
    """Delete the record of an ended JOB now. Its blobs go later, or at once with `longtake gc --grace 0`."""
    Job(job).forget()


@main.command()
@click.option("--dry-run", is_flag=True, help="Only tell what would be freed.")
@click.option("--grace", type=click.FloatRange(min=0), default=3600.0, show_default=True, help=GRACE_HELP)
def gc(dry_run: bool, grace: float) -> None:
    """Free what no job needs: jobs past their retention, pins without a job, blobs without a pin.

    Workers do the same on their own, blobs after LONGTAKE_BLOB_GRACE_S.
    """
    found = collect_garbage(dry_run=dry_run, grace_s=grace)
    blobs = found.blobs
    done = "would be freed" if dry_run else "freed"
    click.echo(f"jobs past their retention: {len(found.jobs)} {done}")
    click.echo(f"pins without a job: {len(found.owners)} {done}")
    click.echo(f"blobs without a pin: {blobs.blobs} {done}, {blobs.bytes:,} bytes")
    click.echo(f"damaged blobs set aside: {blobs.quarantined} {done}, {blobs.quarantined_bytes:,} bytes")


@main.command()
@job_argument
@out_option
def save(job: str, out: Path) -> None:
    """Write the film of JOB, and its report beside it as .json."""
    Job(job).save(out)


@main.command()
@job_argument
@click.option(
    "-o", "--output", "folder", type=click.Path(path_type=Path), required=True, help="The folder for the files."
)
def report(job: str, folder: Path) -> None:
    """Tell how well the segments of JOB's film join, and write a chart, a contact sheet and all figures.

    Change from frame to frame, loudness, pitch and clicks of any film; shapes are followed where pictures are simple.
    """
    _tell_joins(folder, Job(job).continuity(folder))


@main.group(no_args_is_help=False)
def state() -> None:
    """Continuation states as files."""


@state.command()
@job_argument
@click.option("--segment", type=click.IntRange(min=0), required=True, help="After which segment, from 0.")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="The file; default: standard output.")
def export(job: str, segment: int, out: Path | None) -> None:
    """Write the state of JOB after a segment: with it, another job goes on from there."""
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
    help="Take only this kind of work; may be given several times.",
)
@click.option("--name", default="longtake@%h", show_default=True, help="The worker's name in Flower; %h is the host.")
@click.option("--loglevel", default="INFO", show_default=True, help="DEBUG, INFO, WARNING or ERROR.")
def worker(only: tuple[str, ...], name: str, loglevel: str) -> None:
    """Work for the jobs of a deployment: segments, clips, films, and recovery.

    One process per GPU: set CUDA_VISIBLE_DEVICES for each. SIGTERM lets a running segment finish, SIGQUIT requeues it.
    """
    from tasks.worker.app import app

    arguments = ["worker", "--hostname", name, "--loglevel", loglevel, "--queues", ",".join(only or QUEUES)]
    app.worker_main(argv=arguments)


if __name__ == "__main__":
    main()
