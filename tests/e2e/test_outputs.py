"""Where films go: names that are refused before anything is rendered, existing files, standard output, and locks."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tasks.client.job import Job
from tasks.settings import Settings
from tests.conftest import environment, forked, wait_until
from tests.e2e.refusals import SPEC, Command, check_refused
from tests.forkserver import fork_server
from tests.stand_in import STEP_S


@pytest.fixture
def own_settings(module_settings: Settings, tmp_path: Path) -> Settings:
    """Settings with a home folder of this test."""
    return module_settings.model_copy(update={"home": tmp_path / "home"})


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("folder", "folder is a folder"),
        ("film", "name it film.mp4, or - for standard output"),
        ("film.gif", "film.gif: the film is an MP4; name it film.mp4"),
        ("spec.yaml", "spec.yaml: the film is an MP4"),
        ("picture.mp4", "picture.mp4 is an input of this film"),
        ("link.mp4", "link.mp4 is an input of this film"),
        ("spec.yaml/film.mp4", "spec.yaml is not a folder"),
        ("/proc/film.mp4", "/proc/film.mp4 cannot be written"),
        ("taken.mp4", "taken.report.json exists and is not a regular file"),
        ("other.mp4", "other.mp4 exists, and not from this job"),
        ("notes.mp4", "notes.report.json exists, and not from this job"),
        ("film.mp4 --summary spec.yaml", "spec.yaml is an input of this film"),
        ("film.mp4 --summary film.mp4", "film and summary need two names"),
        ("film.mp4 --summary film.mp4/x.json", "film.mp4/x.json: film.mp4 is a file of this film"),
        ("film.mp4 --report film.mp4", "film.mp4: film.mp4 is a file of this film"),
        ("film.mp4 --report spec.yaml", "spec.yaml is not a folder"),
        ("film.mp4 --report . --summary seams.json", "seams.json, a file of the report, would replace seams.json"),
        (f"{217 * 'a'}.mp4", "is too long a name; the limit is 220 bytes"),
        (f"{300 * 'a'}.mp4", "cannot be written: File name too long"),
        (f"{300 * 'a'}/film.mp4", "cannot be written: File name too long"),
        ("new/folder/film.mp4 --dry-run --model nosuch", "options: model: no such model folder: nosuch"),
    ],
)
def test_an_output_is_refused_before_anything_is_rendered(
    longtake: Command, own_settings: Settings, tmp_path: Path, out: str, words: str
) -> None:
    # Given a spec with an image, and files that are there already
    Image.new("RGB", (64, 32)).save(tmp_path / "picture.mp4", "png")
    (tmp_path / "link.mp4").symlink_to("picture.mp4")
    (tmp_path / "spec.yaml").write_text(f"{SPEC}image: picture.mp4\n")
    for folder in ("folder", "taken.report.json"):
        (tmp_path / folder).mkdir()
    (tmp_path / "other.mp4").write_bytes(b"the film of another job")
    (tmp_path / "notes.report.json").write_text("[]")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    # When
    result = longtake("render", "spec.yaml", "-o", *out.split(), settings=own_settings)
    # Then
    check_refused(result, words)
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_an_existing_film_is_replaced_by_the_same_job_or_by_force(
    longtake: Command, module_settings: Settings, job: Job, tmp_path: Path
) -> None:
    # Given the film of another job
    (tmp_path / "film.mp4").write_bytes(b"the film of another job")
    (tmp_path / "film.report.json").write_text('{"job_id": "another"}')
    # When
    refused = longtake("save", job.id, "-o", "film.mp4", settings=module_settings)
    # Then
    check_refused(refused, "film.mp4 exists, and not from this job", "--force")
    assert (tmp_path / "film.mp4").read_bytes() == b"the film of another job"
    # When / Then
    forced = longtake("save", job.id, "-o", "film.mp4", "--force", settings=module_settings)
    assert forced.returncode == 0, forced.stderr
    assert forced.stderr.startswith("film.mp4  1.04 s  64x32  ")
    assert json.loads((tmp_path / "film.report.json").read_text())["job_id"] == job.id
    assert longtake("save", job.id, "-o", "film.mp4", settings=module_settings).returncode == 0


def test_a_film_and_its_summary_elsewhere(
    longtake: Command, module_settings: Settings, job: Job, tmp_path: Path
) -> None:
    # When
    given = ("save", job.id, "-o", "film.mp4", "--summary", "facts/film.json")
    result = longtake(*given, settings=module_settings)
    # Then
    assert result.returncode == 0, result.stderr
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == ["facts/film.json", "film.mp4"]


def test_a_film_on_standard_output(module_settings: Settings, job: Job, tmp_path: Path) -> None:
    # When
    command = forked("tasks", "save", job.id, "-o", "-")
    result = subprocess.run(command, env=environment(module_settings), cwd=tmp_path, capture_output=True, check=True)
    # Then
    job.save(tmp_path / "film.mp4")
    assert result.stdout == (tmp_path / "film.mp4").read_bytes()
    assert result.stderr.startswith(b"standard output  1.04 s  64x32")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (">&-", "standard output is closed"),
        ("> /dev/full", "standard output cannot be written: No space left on device"),
    ],
)
def test_a_standard_output_that_takes_no_film(
    module_settings: Settings, job: Job, tmp_path: Path, where: str, words: str
) -> None:
    command = f"{sys.executable} -m tasks save {job.id} -o - {where}"
    environ = environment(module_settings)
    result = subprocess.run(command, shell=True, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    check_refused(result, words)


def test_a_film_is_not_written_to_a_terminal(module_settings: Settings, job: Job, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        command = forked("tasks", "save", job.id, "-o", "-")
        environ = environment(module_settings)
        result = subprocess.run(command, env=environ, cwd=tmp_path, stdout=theirs, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    assert result.returncode == 1
    assert result.stderr.startswith(b"longtake: standard output is a terminal; redirect it, or ")


def test_two_renders_of_one_film_exclude_each_other(
    longtake: Command, own_settings: Settings, spec: Path, tmp_path: Path
) -> None:
    # Given a running render, and another spec
    with (tmp_path / "first.log").open("wb") as log:
        environ, command = environment(own_settings) | {STEP_S: "20"}, ("render", spec, "-o", "film.mp4")
        first = fork_server().start("tasks", *command, environ=environ, folder=tmp_path, out=log, err=log)
    wait_until(lambda: (tmp_path / ".film.mp4.lock").exists(), what="the lock of the film")
    (tmp_path / "other.yaml").write_text(f"seed: 7\n{SPEC}")
    elsewhere = own_settings.model_copy(update={"home": tmp_path / "other home"})
    try:
        # When / Then another spec and user cannot write the same film
        refused = longtake("render", "other.yaml", "-o", "film.mp4", settings=elsewhere)
        check_refused(refused, f"film.mp4 is already being rendered by process {first.pid}, with its data in ")
        # When / Then the same spec can be rendered to another film
        second = longtake("render", spec, "-o", "second.mp4", settings=own_settings)
        assert second.returncode == 0, second.stderr
    finally:
        first.send_signal(signal.SIGINT)
        first.wait(60)
    # Then no lock stays, and what both renders left is listed, and deleted on request
    assert not list(tmp_path.glob(".*.lock"))
    listed = sorted(longtake("gc", "--renders", "--dry-run", settings=own_settings).stdout.splitlines())
    assert listed[0].startswith(f"finished render of {tmp_path / 'second.mp4'}: {tmp_path / 'home' / 'renders'}/")
    assert listed[1].startswith(f"unfinished render of {tmp_path / 'film.mp4'}: {tmp_path / 'home' / 'renders'}/")
    deleted = sorted(longtake("gc", "--renders", settings=own_settings).stdout.splitlines())
    assert deleted == [f"{line}, deleted" for line in listed]
    assert longtake("gc", "--renders", settings=own_settings).stdout == ""
