"""What people get wrong, and what breaks under them: one clear line each, and nothing half-done."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.client import Job, list_jobs, submit
from tasks.config import Settings
from tests.conftest import STAND_IN, RedisProcess, Worker, environment, free_port, wait_until

Completed = subprocess.CompletedProcess[str]
Command = Callable[..., Completed]

SPEC = """\
title: harbour
width: 64
height: 32
frames: 17
segments:
  - prompt: a boat
  - prompt: gulls
"""
COMMANDS = (
    "status ID",
    "list",
    "watch ID",
    "cancel ID",
    "save ID -o film.mp4",
    "state export ID --segment 0",
    "worker",
)


def check_refused(result: Completed, *words: str, lines: int = 1) -> None:
    """Every line on stderr is ours and names what was wrong; stdout is empty."""
    told = result.stderr.splitlines()
    assert result.returncode not in (0, -signal.SIGXFSZ), result.stderr
    assert len(told) == lines, result.stderr
    assert all(line.startswith("longtake: ") for line in told), result.stderr
    assert all(len(line) < 400 for line in told)
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Settings]:
    server = RedisProcess(tmp_path_factory.mktemp("redis"))
    yield Settings(redis_url=server.url, home=home, engine=STAND_IN, lease_s=2.0)
    server.stop()


@pytest.fixture(scope="module")
def job(here: Settings, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that is done."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "spec.yaml").write_text(SPEC)
    worker = Worker(here, folder / "worker.log")
    try:
        return submit(folder / "spec.yaml", settings=here).wait()
    finally:
        worker.stop()


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


# Specs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title: [a\nsegments:\n", "spec.yaml:2: not valid YAML"),
        ("title: a\0b\n", "not valid YAML: unacceptable character"),
        ("- a\n- b\n", "must be a mapping"),
        ("title: a\n", "segments: missing"),
        ("segments: []\n", "spec.yaml:1: segments"),
        ("segments: [{prompt: a}]\nwidth: 100\n", "spec.yaml:2: width: 100 is not a multiple of 32"),
        ("segments: [{prompt: a}]\nframes: 26\n", "spec.yaml:2: frames: 26 is not of the form 8k+1"),
        ("segments: [{prompt: a, mood: blue}]\n", "spec.yaml:1: segments.0.mood: unknown key"),
        ('{"segments": [{"prompt": "\\ud800"}]}', "segments.0.prompt"),
    ],
)
def test_a_bad_spec(longtake: Command, here: Settings, job: Job, spec: Path, text: str, words: str) -> None:
    # Given
    spec.write_text(text)
    # When
    result = longtake("submit", spec, settings=here)
    # Then
    check_refused(result, words)
    assert [status.job_id for status in list_jobs(settings=here)] == [job.id]


def test_every_problem_of_a_spec_is_told_at_once(longtake: Command, here: Settings, spec: Path, tmp_path: Path) -> None:
    # Given
    spec.write_text("width: 100\nheight: 33\nframes: 26\ncolour: red\nsegments: [{seed: 1}]\n")
    # When
    result = longtake("render", spec, "-o", "film.mp4", settings=here)
    # Then
    check_refused(result, "width", "height", "frames", "colour", "segments.0.prompt", lines=5)
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


def test_a_spec_that_is_not_there(longtake: Command, here: Settings) -> None:
    check_refused(longtake("submit", "absent.yaml", settings=here), "absent.yaml: No such file")


@pytest.mark.parametrize("arguments", ["submit", "save abc", "paint spec.yaml", "state", "worker --only pictures"])
def test_arguments_that_cannot_be(longtake: Command, here: Settings, arguments: str) -> None:
    check_refused(longtake(*arguments.split(), settings=here), "--help")


# Models


@pytest.mark.parametrize(
    ("model", "words"),
    [("./absent", "no such model folder: ./absent"), ("half", "transformer"), ("empty", "model_index.json")],
)
def test_a_model_that_is_missing_or_incomplete(
    longtake: Command, here: Settings, spec: Path, tmp_path: Path, model: str, words: str
) -> None:
    # Given
    (tmp_path / "empty").mkdir()
    (tmp_path / "half" / "audio_vae").mkdir(parents=True)
    (tmp_path / "half" / "model_index.json").write_text('{"audio_vae": ["diffusers", "AutoencoderKLLTX2Audio"]}')
    spec.write_text(f"model: {model}\n{SPEC}")
    fresh = here.model_copy(update={"home": tmp_path / "home", "model": model})
    # When
    render = longtake("render", spec, "-o", "film.mp4", settings=fresh)
    worker = longtake("worker", settings=fresh)
    # Then
    if model == "half":
        words = "names no connectors"
    check_refused(render, words)
    check_refused(worker, words)
    assert not (tmp_path / "home").exists()
    assert not (tmp_path / "film.mp4").exists()


def test_a_model_folder_may_be_named_relative_to_where_one_is(
    longtake: Command, here: Settings, spec: Path, tmp_path: Path
) -> None:
    # Given
    settings = here.model_copy(update={"model": "model"})
    (tmp_path / "model").symlink_to(tiny(here))
    # When
    result = longtake("render", spec, "-o", "film.mp4", settings=settings)
    # Then
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "film.json").read_text())["model"] == str(tmp_path / "model")


def tiny(settings: Settings) -> Path:
    from ltx2.tiny import ensure

    return ensure(settings.home / "models", "tiny")


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


def test_a_disk_that_is_full_when_the_render_ends(
    longtake: Command, here: Settings, spec: Path, tmp_path: Path
) -> None:
    # Given a render under way, which from now on cannot write a file larger than 1 KiB; its Redis and worker can
    settings = here.model_copy(update={"home": tmp_path / "home"})
    out = tmp_path / "out" / "film.mp4"
    command = [sys.executable, "-m", "tasks.cli", "render", str(spec), "-o", str(out)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment(settings), stderr=log)
    said = (tmp_path / "log").read_text
    wait_until(lambda: "segment 1/2" in said() or process.poll() is not None, what="the render")
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
    assert "going on with 2 of 2 segments done" in again.stderr
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
    longtake: Command, here: Settings, spec: Path, tmp_path: Path, command: str
) -> None:
    # Given
    tiny(here)
    port = free_port()
    nowhere = here.model_copy(update={"redis_url": f"redis://user:secret@127.0.0.1:{port}/0"})
    # When
    result = longtake(*command.replace("ID", "abc").split(), settings=nowhere)
    # Then
    check_refused(result, f"Redis at redis://user:***@127.0.0.1:{port}/0", "refused")
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


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
        ("dtype", "float8"),
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
    check_refused(longtake("list", settings=here.model_copy(update={"redis_url": url})), "no address of a Redis")


def test_help_needs_no_good_settings(longtake: Command, here: Settings) -> None:
    result = longtake("worker", "--help", settings=here.model_copy(update={"redis_url": "http://broker"}))
    assert result.returncode == 0, result.stderr


# Jobs


@pytest.mark.parametrize("command", [command for command in COMMANDS if "ID" in command])
@pytest.mark.parametrize(("job_id", "words"), [("abc", "there is no job abc"), ("../ABC", "is not a job id")])
def test_a_job_that_is_not_there(longtake: Command, here: Settings, command: str, job_id: str, words: str) -> None:
    check_refused(longtake(*command.replace("ID", job_id).split(), settings=here), words)


def test_a_job_that_is_not_that_far(longtake: Command, here: Settings, job: Job, spec: Path, tmp_path: Path) -> None:
    # Given
    queued = submit(spec, settings=here)
    # When
    save = longtake("save", queued.id, "-o", "film.mp4", settings=here)
    export = longtake("state", "export", queued.id, "--segment", 0, "-o", "state.json", settings=here)
    beyond = longtake("state", "export", job.id, "--segment", 2, settings=here)
    cancel = longtake("cancel", job.id, settings=here)
    queued.cancel()
    queued.forget()
    # Then
    check_refused(save, "is queued; only a job that is done has a film")
    check_refused(export, "has no committed segment 0")
    check_refused(beyond, "has no committed segment 2")
    check_refused(cancel, "is done already")
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


# States from elsewhere


def broken_states(state: dict[str, Any], clip: str) -> list[tuple[str, str]]:
    """Texts of state files, each with what is said about it."""

    def changed(**changes: Any) -> str:
        return json.dumps({**state, "payload": {**state["payload"], **changes}})

    return [
        ("not JSON", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must be an object"),
        ('{"kind": "ltx2.v1"}', "needs a `kind` and a `payload`"),
        (json.dumps({**state, "kind": "ltx9.v1"}), "ltx9.v1"),
        (changed(video={"frames_b64": ["AAAA"]}), "video"),
        (changed(video_position_offset_sec=float("nan")), "video_position_offset_sec"),
        (changed(video={"blob_id": f"sha256:{'0' * 64}", "frame_count": 9}), "sha256:"),
        (changed(metadata={"longtake_metadata_blob": clip}), "metadata"),
        (changed(video=None, audio=None), "nothing to continue"),
    ]


def test_states_that_cannot_be_continued(
    longtake: Command, here: Settings, job: Job, spec: Path, tmp_path: Path
) -> None:
    # Given
    clip = job.report()["segments"][0]["blobs"]["clip"]
    path = tmp_path / "state.json"
    for text, words in broken_states(job.state(0), clip):
        path.write_text(text)
        # When
        result = longtake("submit", spec, "--from-state", path, settings=here)
        # Then
        check_refused(result, words)
    assert [status.job_id for status in list_jobs(settings=here)] == [job.id]


@pytest.mark.parametrize(
    ("line", "words"),
    [("height: 64", "64x32, the spec says 64x64"), ("overlap: 1", "9 frames, the spec's overlap is 1")],
)
def test_a_state_that_does_not_fit_the_spec(
    longtake: Command, here: Settings, job: Job, spec: Path, tmp_path: Path, line: str, words: str
) -> None:
    # Given
    path = tmp_path / "state.json"
    path.write_text(json.dumps(job.state(1)))
    spec.write_text(SPEC.replace("height: 32", line) if line.startswith("height") else f"{line}\n{SPEC}")
    # When / Then
    check_refused(longtake("submit", spec, "--from-state", path, settings=here), words)
    check_refused(longtake("submit", spec, "--from-state", "absent.json", settings=here), "absent.json: No such file")
