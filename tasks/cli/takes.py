"""Commands for takes: render a segment again, compare, choose; and keep a job for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import click

from tasks.cli.command import job_argument, main
from tasks.client.display.progress import step_of
from tasks.client.display.terminal import show_json, show_line, show_lines
from tasks.client.job import find_job
from tasks.client.takes import MOST_TAKES, TakeStatus, text_of
from tasks.field_errors import escaped
from tasks.jobs.units import segments_text

PROMPT_CHARACTERS = 200
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SEGMENTS = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


def _segments(_: click.Context, __: click.Parameter, text: str) -> range:
    """A segment, as 3, or neighbours, as 3-5."""
    match = SEGMENTS.fullmatch(text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise click.BadParameter(f"{text!r:.40} must be a segment, such as 3, or neighbours, such as 3-5.")
    return range(int(match[1]), int(match[2] or match[1]) + 1)


segments_option = click.option(
    "--segment", "segments", required=True, callback=_segments, help="Which segment, from 0; or neighbours, as 3-5."
)


@main.command()
@job_argument
@segments_option
@click.option("--prompt", help="Another prompt; default: the segment's.")
@click.option("--seed", type=int, help="A seed; default: another one for each take.")
@click.option("--takes", type=click.IntRange(1, MOST_TAKES), default=1, help="How many; default: 1.")
@click.option("--cascade", is_flag=True, help="Render all later segments anew, too, as a new job; prints its id.")
def retake(job: str, segments: range, prompt: str | None, seed: int | None, takes: int, cascade: bool) -> None:
    """Render a segment of JOB again, or neighbours as one take.

    All others stay. The numbers of the new takes are printed.

    A take starts where the segment before it ends, and leads into what the next segment began from. The film changes
    when it is chosen.
    """
    found = find_job(job)
    if cascade:
        if takes != 1 or len(segments) != 1:
            raise click.UsageError("--cascade makes one job; leave out --takes, and name one segment.")
        made = found.cascade(segments[0], prompt=prompt, seed=seed)
        click.echo(made.id)
        show_line(f"Next: longtake watch {made.id}; longtake save {made.id} -o film.mp4", err=True)
        return
    numbers = found.retake(segments[0], last=segments[-1], prompt=prompt, seed=seed, takes=takes)
    show_lines(map(str, numbers))
    example = f"--segment {text_of(segments)} --take {numbers[0]}"
    show_line(f"Next: longtake watch {found.id}; longtake choose {found.id} {example}", err=True)


@main.command()
@job_argument
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object per line and take.")
def takes(job: str, as_json: bool) -> None:
    """List the takes of JOB's segments. Take 0 is what was rendered first."""
    found = find_job(job).takes()
    if not found:
        show_line("no take; `longtake retake JOB --segment K` renders a segment again", err=True)
    if not as_json:
        show_lines(_lines_of(found))
    for take in found if as_json else ():
        show_json(asdict(take), indent=None)


def _lines_of(found: Sequence[TakeStatus]) -> Iterator[str]:
    for take in found:
        state = "shown" if take.shown else str(take.state)
        seconds = "" if take.engine_s is None else f"{take.engine_s:.1f} s  "
        prompt = escaped(take.prompt, PROMPT_CHARACTERS)
        where = segments_text(range(take.segment, take.last + 1))
        join = "" if take.join is None else f"join {take.join:.2f}  "
        yield f"{where}  take {take.take}  {state:8}  {seconds}{join}seed {take.seed}  {prompt}"
        if take.progress is not None:
            yield f"    rendering segment {take.progress.index}: {step_of(take.progress)}"
        if take.reason is not None:
            yield f"    {take.reason}"
        elif take.prevented_by is not None:
            yield f"    segment {take.prevented_by} continues another take, and this one does not lead into it"


@main.command()
@job_argument
@segments_option
@click.option("--take", type=click.IntRange(min=0), required=True, help="Which take; 0: what was rendered first.")
def choose(job: str, segments: range, take: int) -> None:
    """Have the film of JOB show a take. The old film stays until the new one is joined.

    A take of several segments is shown whole. Where another take is chosen for some of them, the others show again what
    was rendered first.
    """
    found = find_job(job)
    name = f"take {take} of {segments_text(segments)}"
    if not found.choose(segments[0], take, last=segments[-1]):
        show_line(f"{name} is shown already")
        return
    show_line(f"{name} is chosen")
    show_line(f"Next: longtake watch {found.id}; longtake save {found.id} -o film.mp4", err=True)


@main.command()
@job_argument
@click.option("--for", "how_long", help="How long from now, such as 12h or 7d; default: until --release.")
@click.option("--release", is_flag=True, help="Keep it no longer than other jobs.")
def keep(job: str, how_long: str | None, release: bool) -> None:
    """Keep JOB and its blobs beyond LONGTAKE_RETENTION_S.

    It can then be retaken, forked and saved.
    """
    found = find_job(job)
    if release and how_long is not None:
        raise click.UsageError("--release and --for exclude each other.")
    if release:
        found.unkeep()
        show_line(f"job {found.id} is kept no longer than other jobs")
    else:
        found.keep(None if how_long is None else _seconds(how_long))
        show_line(f"job {found.id} is kept {f'for {how_long} from now' if how_long else 'until it is released'}")


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if match is None:
        raise click.UsageError(f"--for is {text!r:.40}; it must be a whole number with s, m, h or d, such as 12h.")
    return int(match[1]) * UNITS_S[match[2]]
