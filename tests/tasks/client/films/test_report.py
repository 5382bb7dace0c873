"""`longtake report`: figures, chart, contact sheet, and errors; warnings of segments in `longtake status`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ltx2.media.clip import encode_clip
from ltx2.media.film import join_film
from ltx2.timeline import SegmentShape, SegmentTiming, plan, sound_seconds
from tasks.client.films.report import write_report
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.errors import JobStateError, OutputError
from tasks.settings import Settings
from tests.conftest import Worker
from tests.tasks.conftest import spec
from training.world import COLOURS, FPS, Shape, World

RATE = 48_000


def read(folder: Path) -> dict[str, Any]:
    """The content of seams.json, which must be strict JSON without NaN."""
    figures: dict[str, Any] = json.loads((folder / "seams.json").read_text(), parse_constant=pytest.fail)
    return figures


def make_film(worlds: list[World], path: Path) -> tuple[bytes, list[SegmentTiming]]:
    """A film with one segment of each world, in which time runs on across segments."""
    timings = plan(SegmentShape(25, Fraction(FPS)), [False] * len(worlds))
    clips = []
    for timing, world in zip(timings, worlds, strict=True):
        start = timing.first_frame / FPS - float(timing.picture_start)
        sound = world.samples(start, int(sound_seconds(timing.audio_latents) * RATE), RATE).T
        frames = world.frames(timing.first_frame / FPS, timing.new_frames)
        clips.append(encode_clip(frames, sound, fps=Fraction(FPS), audio_rate=RATE, picture_start=timing.picture_start))
    join_film(clips, timings, path)
    return path.read_bytes(), timings


@pytest.mark.parametrize("sound", ["high hum", "silence"])
def test_an_encoded_film_without_errors_is_within_bounds(sound: str, tmp_path: Path) -> None:
    # Given
    circle = Shape("circle", "red", "up and right", "", 16, 44, 70, 90)
    data, timings = make_film([World((circle,), "blue", sound)] * 4, tmp_path / "film.mp4")
    # When
    broken = write_report(data, timings, tmp_path / "joins")
    # Then
    assert broken == []
    for seam in read(tmp_path / "joins")["seams"]:
        assert seam["change"] < seam["largest_change"] + 0.5
        assert (seam["sound"]["pitch_step"] is None) == (sound == "silence")
        assert seam["shapes"][0]["kinds"] == ["circle", "circle"]
    for segment in read(tmp_path / "joins")["segments"]:
        (shape,) = segment["tracks"]
        assert shape["colour"] == pytest.approx(COLOURS["red"], abs=15)
        x, y = circle.centre((segment["first_frame"] + np.arange(len(shape["centres"]))) / FPS)
        assert np.array(shape["centres"]) == pytest.approx(np.stack([x, y], axis=1), abs=0.5)


def test_the_report_lists_each_broken_segment(tmp_path: Path) -> None:
    # Given a film whose circle is green from segment 2 on
    red = World((Shape("circle", "red", "up and right", "", 16, 44, 70, 90),), "blue", "high hum")
    green = replace(red, shapes=(replace(red.shapes[0], colour="green"),))
    data, timings = make_film([red, red, green, green], tmp_path / "film.mp4")
    # When
    broken = write_report(data, timings, tmp_path / "joins")
    # Then
    assert broken[-3:] == [
        "segment 2: a shape appears",
        "segment 2: shape 1 is gone",
        "segment 3: shape 1 is gone, compared with segment 0",
    ]
    assert read(tmp_path / "joins")["broken"] == broken


@pytest.fixture(scope="module")
def done(module_settings: Settings, worker: Worker) -> Job:
    prompts = spec("a", "warn", "c")
    prompts["segments"][2]["transition"] = "cut"
    return submit(prompts, settings=module_settings).wait()


def test_the_sheet_compares_the_takes_of_a_segment(module_settings: Settings, worker: Worker, tmp_path: Path) -> None:
    # Given a film whose second segment has a take that is not shown
    job = submit(spec("a", "b"), settings=module_settings).wait()
    job.retake(1, prompt="striped")
    # When
    [_, segment, take] = job_rows(job.wait(), tmp_path / "joins")
    # Then the take is below its segment, with the same frames in each column
    assert np.abs(take - segment).max() > 50
    # And when it is shown, what was rendered first is there instead
    job.choose(1, 1)
    [_, shown, hidden] = job_rows(job.wait(), tmp_path / "chosen")
    assert np.abs(shown - take).max() < 10
    assert np.abs(hidden - segment).max() < 10


def job_rows(job: Job, folder: Path) -> list[Any]:
    """The first pictures of the rows of a job's contact sheet."""
    job.write_report(folder)
    with Image.open(folder / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    left = pixels.shape[1] - 6 * 164
    return [pixels[top : top + 80, left : left + 160] for top in range(0, pixels.shape[0], 84)]


def test_report_writes_figures_chart_and_sheet(
    module_settings: Settings, done: Job, longtake: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    # When
    result = longtake("report", done.id, "-o", "joins", settings=module_settings)
    # Then
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "joins/seams.png, joins/sheet.png, joins/seams.json"
    figures = read(tmp_path / "joins")
    assert result.stdout.splitlines()[:-1] == (figures["broken"] or ["every join is within bounds"])
    assert [(seam["segment"], seam["frame"], seam["cut"]) for seam in figures["seams"]] == [
        (1, 17, False),
        (2, 25, True),
    ]
    assert all(seam["change"] >= 0 and seam["sound"]["click"] is not None for seam in figures["seams"])
    assert [(segment["first_frame"], len(segment["changes"])) for segment in figures["segments"]] == [
        (0, 16),
        (17, 7),
        (25, 16),
    ]
    with Image.open(tmp_path / "joins" / "seams.png") as chart, Image.open(tmp_path / "joins" / "sheet.png") as sheet:
        assert chart.format == sheet.format == "PNG"
        assert len(chart.convert("RGB").getcolors(1 << 24) or []) > 5  # the curves, the join and the cut are drawn
        assert sheet.height == 3 * (80 + 4)  # a row per segment


def test_status_and_summary_show_the_warnings_of_segments(
    module_settings: Settings, done: Job, longtake: Callable[..., CompletedProcess[str]]
) -> None:
    lines = longtake("status", done.id, settings=module_settings).stdout.splitlines()
    assert [line for line in lines if "odd" in line] == ["  warning, segment 1: the prompt is odd"]
    assert "  done · 3 of 3 segments rendered · 3 clips" in lines
    assert [segment.get("warnings", []) for segment in done.summary()["segments"]] == [[], ["the prompt is odd"], []]
    assert done.warnings(1) == ["the prompt is odd"]
    assert done.warnings(7) == []


def test_report_on_a_job_without_a_film_fails(
    module_settings: Settings, longtake: Callable[..., CompletedProcess[str]]
) -> None:
    # Given a job that no worker ends before it is cancelled
    job = submit(spec(open=True), settings=module_settings)
    job.cancel()
    # When
    result = longtake("report", job.id, "-o", "joins", settings=module_settings)
    # Then
    assert result.returncode == 1
    assert result.stderr.startswith(f"longtake: job {job.id} is ")
    assert "only a job that was done has a film" in result.stderr
    with pytest.raises(JobStateError, match="only a job that was done has a film"):
        job.write_report("joins")


def test_report_fails_if_its_folder_is_a_file(done: Job, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match=r"cannot create folder .*taken: a file with that name exists"):
        done.write_report(tmp_path / "taken")
