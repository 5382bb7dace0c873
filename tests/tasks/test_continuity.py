"""`longtake report`: figures, chart and contact sheet of a finished film, and refusals where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from PIL import Image

from tasks.client import Job, submit
from tasks.config import Settings
from tasks.errors import JobStateError, OutputError
from tests.conftest import Worker
from tests.tasks.conftest import spec


@pytest.fixture(scope="module")
def done(here: Settings, worker: Worker) -> Job:
    prompts = spec("a", "b", "c")
    prompts["segments"][2]["transition"] = "cut"
    return submit(prompts, settings=here).wait()


def test_the_files_of_a_finished_film(
    here: Settings, done: Job, longtake: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    # When
    told = longtake("report", done.id, "-o", "joins", settings=here)
    # Then
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[-1] == "joins/seams.png, joins/sheet.png, joins/seams.json"
    figures = json.loads((tmp_path / "joins" / "seams.json").read_text())
    assert told.stdout.splitlines()[:-1] == (figures["broken"] or ["every join is within bounds"])
    assert [(seam["segment"], seam["frame"], seam["cut"]) for seam in figures["seams"]] == [
        (1, 17, False),
        (2, 25, True),
    ]
    assert all(seam["change"] >= 0 and seam["click"] is not None for seam in figures["seams"])
    with Image.open(tmp_path / "joins" / "seams.png") as chart, Image.open(tmp_path / "joins" / "sheet.png") as sheet:
        assert chart.format == sheet.format == "PNG"
        assert len(chart.convert("RGB").getcolors(1 << 24) or []) > 5  # lines are drawn, at the join and at the cut
        assert sheet.height == 3 * (80 + 4)  # a row per segment


def test_a_film_that_is_not_there_yet(here: Settings, longtake: Callable[..., CompletedProcess[str]]) -> None:
    # Given
    job = submit(spec("a"), settings=here)
    job.cancel()
    # When
    told = longtake("report", job.id, "-o", "joins", settings=here)
    # Then
    assert told.returncode == 1
    assert told.stderr.startswith(f"longtake: job {job.id} is ")
    assert "only a job that is done has a film" in told.stderr
    with pytest.raises(JobStateError, match="only a job that is done has a film"):
        job.continuity("joins")


def test_a_folder_that_cannot_be_made(done: Job, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="taken cannot be made a folder"):
        done.continuity(tmp_path / "taken")
