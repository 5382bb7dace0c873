"""Disks, servers and settings that let the command down: one clear line each, and nothing half-written."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tasks.client.job import Job
from tasks.settings import Settings
from tests.conftest import environment, free_port, wait_until
from tests.e2e.refusals import COMMANDS, Command, check_refused
from tests.stand_in import STEP_S

# Outputs


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("folder", "folder is a folder"),
        ("spec.yaml/film.mp4", "spec.yaml is no folder"),
        ("/proc/film.mp4", "/proc/film.mp4 cannot be written"),
        ("film.json", "is where the report goes"),
        ("taken.mp4", "taken.json is there"),
    ],
)
def test_an_output_that_cannot_be_written(
    longtake: Command, here: Settings, job: Job, spec: Path, tmp_path: Path, out: str, words: str
) -> None:
    # Given
    (tmp_path / "folder").mkdir()
    (tmp_path / "taken.json").mkdir()
    before = sorted(tmp_path.rglob("*"))
    fresh = here.model_copy(update={"home": tmp_path / "home"})
    # When
    save = longtake("save", job.id, "-o", out, settings=here)
    render = longtake("render", spec, "-o", out, settings=fresh)
    # Then
    check_refused(save, words)
    check_refused(render, words)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["save ID -o film.mp4", "state export ID --segment 0 -o state.json"])
def test_a_full_disk(longtake: Command, here: Settings, job: Job, tmp_path: Path, command: str) -> None:
    # Given
    arguments = command.replace("ID", job.id).split()
    # When
    full = subprocess.run(
        ["bash", "-c", 'ulimit -f 1 && exec "$@"', "bash", sys.executable, "-m", "tasks.cli", *arguments],
        env=environment(here) | {"PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # Then
    check_refused(full, arguments[-1], "cannot be written")
    assert list(tmp_path.iterdir()) == []
    # And with room it works
    assert longtake(*arguments, settings=here).returncode == 0
    assert (tmp_path / arguments[-1]).stat().st_size > 1024


def render_under_way(settings: Settings, spec: Path, out: Path) -> tuple[subprocess.Popen[bytes], Callable[[], str]]:
    """A slow render, once its Redis and its worker have been started; and what it has said so far."""
    log = spec.with_name("log")
    command = [sys.executable, "-m", "tasks.cli", "render", str(spec), "-o", str(out)]
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment(settings) | {STEP_S: "0.25"}, stderr=file)
    wait_until(lambda: "segment 1 of 2" in log.read_text() or process.poll() is not None, what="the render")
    return process, log.read_text


def test_a_disk_that_is_full_when_the_render_ends(
    longtake: Command, here: Settings, spec: Path, tmp_path: Path
) -> None:
    # Given a render under way, which from now on cannot write a file larger than 1 KiB; its Redis and worker can
    settings = here.model_copy(update={"home": tmp_path / "home"})
    out = tmp_path / "out" / "film.mp4"
    process, said = render_under_way(settings, spec, out)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    # When
    assert process.wait(60) == 1, said()
    # Then
    last = said().splitlines()[-1]
    assert last.startswith("longtake: ")
    assert "film.mp4 cannot be written" in last
    assert "Traceback" not in said()
    assert list(out.parent.iterdir()) == []
    # And with room the same command goes on where it was
    again = longtake("render", spec, "-o", out, settings=settings)
    assert again.returncode == 0, again.stderr
    assert "resuming: 2 of 2 segments already rendered" in again.stderr
    assert sorted(path.name for path in out.parent.iterdir()) == ["film.json", "film.mp4"]


def test_a_full_disk_under_standard_output(here: Settings, job: Job, tmp_path: Path) -> None:
    # When
    command = f"{sys.executable} -m tasks.cli status {job.id} --json >/dev/full"
    result = subprocess.run(
        ["bash", "-c", command], env=environment(here), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    # Then
    check_refused(result, "No space left on device")


# Servers and settings


@pytest.mark.parametrize("command", [*COMMANDS, "submit spec.yaml"])
def test_a_redis_that_cannot_be_reached(
    longtake: Command, here: Settings, spec: Path, tiny: Path, tmp_path: Path, command: str
) -> None:
    # Given
    port = free_port()
    nowhere = here.model_copy(update={"redis_url": f"redis://user:secret@127.0.0.1:{port}/0"})
    # When
    result = longtake(*command.replace("ID", "abc").split(), settings=nowhere)
    # Then
    check_refused(result, f"Redis at redis://127.0.0.1:{port}/0", "refused")
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


def test_a_render_whose_redis_dies(here: Settings, spec: Path, tmp_path: Path) -> None:
    # Given a render under way
    settings = here.model_copy(update={"home": tmp_path / "home"})
    process, said = render_under_way(settings, spec, tmp_path / "film.mp4")
    # When
    [server] = [child for child in psutil.Process(process.pid).children() if "redis" in child.name()]
    server.kill()
    # Then
    assert process.wait(60) == 1, said()
    assert said().splitlines()[-1].startswith("longtake: the Redis of this render has failed: ")
    assert "Traceback" not in said()
    assert not (tmp_path / "film.mp4").exists()


def test_a_blob_server_that_cannot_be_reached(longtake: Command, here: Settings, job: Job, tmp_path: Path) -> None:
    # Given
    port = free_port()
    nowhere = here.model_copy(update={"blob_url": f"redis://127.0.0.1:{port}/0"})
    # When
    results = [
        longtake("save", job.id, "-o", "film.mp4", settings=nowhere),
        longtake("worker", "--only", "films", settings=nowhere),
    ]
    # Then
    for result in results:
        check_refused(result, f"Redis at 127.0.0.1:{port} cannot be used")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("redis_url", "http://broker"),
        ("redis_url", "redis://[::1/0"),
        ("lease_s", "soon"),
        ("precision", "float8"),
        ("offload", "some"),
        ("compiler", "gcc -O2"),
        ("warm", "768x512"),
        ("device", "tpu"),
        ("engine", "ltx2.engine"),
    ],
)
def test_a_setting_that_cannot_be(longtake: Command, here: Settings, name: str, value: str) -> None:
    # Given
    bad = here.model_copy(update={name: value})
    # When / Then
    check_refused(longtake("list", settings=bad), f"LONGTAKE_{name.upper()}")


@pytest.mark.parametrize("url", ["redis://broker:port/0", "redis://127.0.0.1/0?colour=red"])
def test_a_redis_address_with_something_odd_in_it(longtake: Command, here: Settings, url: str) -> None:
    check_refused(
        longtake("list", settings=here.model_copy(update={"redis_url": url})),
        "LONGTAKE_REDIS_URL: the redis: URL is not valid",
    )


def test_help_needs_no_good_settings(longtake: Command, here: Settings) -> None:
    result = longtake("worker", "--help", settings=here.model_copy(update={"redis_url": "http://broker"}))
    assert result.returncode == 0, result.stderr
