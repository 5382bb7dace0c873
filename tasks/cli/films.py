"""Commands for films: render one here, save one, judge its joins, and start a spec."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from tasks.cli.command import (
    before_option,
    force_option,
    job_argument,
    main,
    model_option,
    out_option,
    seed_option,
    show_warnings,
    spec_argument,
    state_option,
    summary_option,
)
from tasks.client.display.plan import plan_lines
from tasks.client.display.progress import ProgressDisplay
from tasks.client.display.terminal import show_line, show_lines
from tasks.client.files import write_new
from tasks.client.films.output import STREAM, FilmOutput
from tasks.client.job import find_job
from tasks.client.submissions.small_model import prompt_warnings
from tasks.client.submissions.state_files import read_state
from tasks.client.takes import clip_name
from tasks.errors import OutputError
from tasks.field_errors import counted
from tasks.settings import Settings
from tasks.spec.loader import changed_spec, load_spec

STARTER = """\
title: my first film
model: shapes         # small; understands moving shapes. Or LTX-2: a folder or a hub id
width: 192            # pixels, multiples of 32
height: 128
frames: 25            # per segment, 8k+1; a continuation repeats the last 9 of the segment before
fps: 24
seed: 1
segments:             # each continues the one before, unless it says `transition: cut`
  - prompt: a red circle moves left over a blue background, low hum
  - prompt: a red circle moves left over a blue background, low hum
"""


@main.command()
@spec_argument
@out_option
@summary_option
@state_option
@click.option("--report", "folder", type=click.Path(path_type=Path), help="Write a continuity report into this folder.")
@model_option
@seed_option
@before_option
@force_option
@click.option("--dry-run", is_flag=True, help="Only check spec, files and settings, and say what would be rendered.")
def render(
    spec: Path,
    out: str,
    summary: Path | None,
    state: Path | None,
    folder: Path | None,
    model: str | None,
    seed: int | None,
    before: bool,
    force: bool,
    dry_run: bool,
) -> None:
    """Render SPEC on this machine, with its own Redis and worker. SPEC is a file; - is standard input.

    If interrupted, run the same command again to resume. A summary of the film is written next to it.
    """
    from tasks.embedded.kept_renders import pace_of_renders
    from tasks.embedded.render import check_inputs
    from tasks.embedded.render import render as render_here

    show = ProgressDisplay()
    job = changed_spec(load_spec(spec), model=model, seed=seed, before=before or None)
    output = FilmOutput.of(out, summary=summary, overwrite=force)
    settings = Settings.from_env()
    inputs = [path for path in (spec, state) if path and str(path) != STREAM]
    given = read_state(state) if state else None
    if dry_run:
        named, made_from, warnings = check_inputs(
            job, output, inputs=inputs, state=given, report_folder=folder, settings=settings
        )
        pace = pace_of_renders(settings, made_from)
        for line in plan_lines(job, str(named.model), continues=state is not None, pace=pace):
            show.say(line)
        show_warnings([*warnings, *prompt_warnings(named, settings)])
        return
    try:
        written, faults = render_here(
            job, output, inputs=inputs, state=given, report_folder=folder, settings=settings, show=show
        )
    except KeyboardInterrupt:
        show.say("Interrupted. Run the same command again to resume.")
        sys.exit(130)
    _show_summary(show, output, written)
    if folder:
        _show_report(folder, faults, to_stderr=output.film is None)


def _show_summary(show: ProgressDisplay, output: FilmOutput, summary: dict[str, Any]) -> None:
    segments = summary["segments"]
    engine = sum(segment["engine_s"] for segment in segments)
    waits = [segment["handoff_s"] for segment in segments if segment["handoff_s"] is not None]
    _show_written(show, output, summary)
    count = f"{counted(len(segments), 'segment')}, {counted(summary['frames'], 'frame')}"
    show.say(f"{count}: {engine:.1f} s rendering, {sum(waits):.1f} s between segments")


def _show_written(show: ProgressDisplay, output: FilmOutput, summary: dict[str, Any]) -> None:
    size = f"  {output.film.stat().st_size:,} bytes" if output.film else ""
    name = output.film or "standard output"
    show.say(f"{name}  {summary['duration_s']:.2f} s  {summary['width']}x{summary['height']}{size}")


def _show_report(folder: Path, faults: list[str], *, to_stderr: bool = False) -> None:
    show_lines(faults or ["every join is within bounds"], err=to_stderr)
    show_line(f"{folder / 'seams.png'}, {folder / 'sheet.png'}, {folder / 'seams.json'}", err=to_stderr)


@main.command()
@job_argument
@out_option
@summary_option
@force_option
@click.option("--segment", type=click.IntRange(min=0), help="Only the clip of this segment, from 0.")
@click.option(
    "--take", type=click.IntRange(min=0), help="Of that segment, one take by itself; default: as in the film."
)
def save(job: str, out: str, summary: Path | None, force: bool, segment: int | None, take: int | None) -> None:
    """Write the film of JOB and its summary, or the clip of a segment."""
    found = find_job(job)
    if segment is not None:
        if summary is not None:
            raise click.UsageError("--summary is of the whole film; leave out --segment.")
        output, clip = FilmOutput.of(out, overwrite=force), found.clip(segment, take=take)
        output.write_clip(clip)
        whose = clip_name(segment, take)
        ProgressDisplay().say(f"{output.film or 'standard output'}  {whose}  {len(clip):,} bytes")
        return
    if take is not None:
        raise click.UsageError("--take needs --segment.")
    output = FilmOutput.of(out, summary=summary, overwrite=force)
    _show_written(ProgressDisplay(), output, found.write_film(output))


@main.command()
@job_argument
@click.option(
    "-o", "--output", "folder", type=click.Path(path_type=Path), required=True, help="The folder for the files."
)
def report(job: str, folder: Path) -> None:
    """Check how well the segments of JOB's film join.

    It writes a chart, a contact sheet and all figures.

    Measures change between frames, loudness, pitch and clicks; in simple pictures it also follows shapes.
    """
    _show_report(folder, find_job(job).write_report(folder))


@main.command()
@click.argument("spec", type=click.Path(path_type=Path), default=Path("film.yaml"))
@force_option
def init(spec: Path, force: bool) -> None:
    """Write a small SPEC to start from; default: film.yaml."""
    if spec.suffix.lower() == ".json":
        raise OutputError(f"{spec}: the spec to start from is YAML; name it {spec.with_suffix('.yaml')}")
    write_new(spec, STARTER.encode(), overwrite=force)
    show_line(f"{spec}: a spec of two segments. Next: longtake render {spec} -o {spec.with_suffix('.mp4')}", err=True)
