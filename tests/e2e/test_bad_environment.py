"""Full disks, unreachable servers and invalid settings: one clear line each, and no partial files."""

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
from tests.conftest import environment, forked, free_port, wait_until
from tests.e2e.refusals import COMMANDS, Command, Completed, at_once, check_refused
from tests.stand_in import STEP_S

# Disks


@pytest.fixture
def not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this test are not measured: coverage could not write its file either, and would say so."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.mark.usefixtures("not_measured")
@pytest.mark.parametrize("command", ["save ID -o film.mp4", "state export ID --segment 0 -o state.json"])
def test_a_full_disk(longtake: Command, module_settings: Settings, job: Job, tmp_path: Path, command: str) -> None:
    # Given
    arguments = command.replace("ID", job.id).split()
    # When
    full = subprocess.run(
        ["bash", "-c", 'ulimit -f 1 && exec "$@"', "bash", sys.executable, "-m", "tasks.cli", *arguments],
        env=environment(module_settings) | {"PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # Then
    check_refused(full, arguments[-1], "cannot be written")
    assert list(tmp_path.iterdir()) == []
    # When there is space again, Then it works
    assert longtake(*arguments, settings=module_settings).returncode == 0
    assert (tmp_path / arguments[-1]).stat().st_size > 1024


def start_slow_render(settings: Settings, spec: Path, out: Path) -> tuple[subprocess.Popen[bytes], Callable[[], str]]:
    """Start a slow render and wait until it renders; returns its process and a function that reads its log."""
    log = spec.with_name("log")
    command = [sys.executable, "-m", "tasks.cli", "render", str(spec), "-o", str(out)]
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment(settings) | {STEP_S: "0.25"}, stderr=file)
    wait_until(lambda: "0 of 2 segments rendered" in log.read_text() or process.poll() is not None, what="the render")
    return process, log.read_text


@pytest.mark.usefixtures("not_measured")
def test_a_full_disk_at_the_end_of_a_render(
    longtake: Command, module_settings: Settings, spec: Path, tmp_path: Path
) -> None:
    # Given a running render that cannot write files larger than 1 KiB; its Redis and worker can
    settings = module_settings.model_copy(update={"home": tmp_path / "home"})
    out = tmp_path / "out" / "film.mp4"
    process, log = start_slow_render(settings, spec, out)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    # When
    assert process.wait(60) == 1, log()
    # Then the film is not written
    last = log().splitlines()[-1]
    assert last.startswith("longtake: ")
    assert "film.mp4 cannot be written" in last
    assert "Traceback" not in log()
    assert list(out.parent.iterdir()) == []
    # When there is space again, Then the same command resumes
    again = longtake("render", spec, "-o", out, settings=settings)
    assert again.returncode == 0, again.stderr
    assert "keeping 2 of 2 segments: the film is rendered already" in again.stderr
    assert sorted(path.name for path in out.parent.iterdir()) == ["film.mp4", "film.report.json"]


def test_a_full_disk_behind_standard_output(module_settings: Settings, job: Job, tmp_path: Path) -> None:
    # When
    command = f"{sys.executable} -m tasks.cli status {job.id} --json >/dev/full"
    result = subprocess.run(
        ["bash", "-c", command],
        env=environment(module_settings),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    # Then
    check_refused(result, "No space left on device")


# Servers and settings


def test_an_unreachable_redis(
    longtake: Command, module_settings: Settings, spec: Path, tiny: Path, tmp_path: Path
) -> None:
    # Given
    port = free_port()
    unreachable = module_settings.model_copy(update={"redis_url": f"redis://user:secret@127.0.0.1:{port}/0"})
    commands = [command.replace("ID", "abc") for command in (*COMMANDS, "submit spec.yaml", "serve --port 0")]
    # When / Then
    for result in at_once(longtake, ((command, unreachable) for command in commands)):
        check_refused(
            result, f"Redis at redis://127.0.0.1:{port}/0", ": Connection refused; start redis-server, or set "
        )
        assert result.stderr.count(str(port)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


def test_a_render_whose_redis_is_killed(module_settings: Settings, spec: Path, tmp_path: Path) -> None:
    # Given a running render
    settings = module_settings.model_copy(update={"home": tmp_path / "home"})
    process, log = start_slow_render(settings, spec, tmp_path / "film.mp4")
    # When
    [server] = [child for child in psutil.Process(process.pid).children() if "redis" in child.name()]
    server.kill()
    # Then
    assert process.wait(60) == 1, log()
    assert log().splitlines()[-1].startswith("longtake: the Redis of this render has failed: ")
    assert "Traceback" not in log()
    assert not (tmp_path / "film.mp4").exists()


def test_an_unreachable_blob_server(longtake: Command, module_settings: Settings, job: Job, tmp_path: Path) -> None:
    # Given
    port = free_port()
    unreachable = module_settings.model_copy(update={"blob_url": f"redis://127.0.0.1:{port}/0"})
    commands = (f"save {job.id} -o film.mp4", "worker --only films", "serve --port 0")
    # When / Then
    for result in at_once(longtake, ((command, unreachable) for command in commands)):
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
        ("text_encoder", "4bit"),
        ("compiler", "gcc -O2"),
        ("warm", "768x512"),
        ("device", "tpu"),
        ("engine", "ltx2.engine"),
    ],
)
def test_an_invalid_setting(longtake: Command, module_settings: Settings, name: str, value: str) -> None:
    # Given
    bad = module_settings.model_copy(update={name: value})
    # When / Then
    check_refused(longtake("list", settings=bad), f"LONGTAKE_{name.upper()}")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://broker:port/0", "the redis: URL is not valid"),
        ("redis://127.0.0.1/0?colour=red", "option 'colour' of the redis: URL is not supported"),
        ("redis://127.0.0.1/films", "the database of the redis: URL must be a number"),
    ],
)
@pytest.mark.parametrize("command", [["list"], ["worker"]])
def test_an_invalid_redis_url(
    longtake: Command, module_settings: Settings, url: str, message: str, command: list[str]
) -> None:
    settings = module_settings.model_copy(update={"redis_url": url})
    check_refused(longtake(*command, settings=settings), f"LONGTAKE_REDIS_URL: {message}")


def celery(command: str, settings: Settings, folder: Path, **variables: str) -> Completed:
    """Run a command of Celery for longtake's application."""
    return subprocess.run(
        forked("celery", "-A", "tasks", *command.split()),
        env=environment(settings) | variables,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("command", ["worker", "flower", "inspect ping"])
def test_a_command_of_celery_with_an_invalid_setting(module_settings: Settings, tmp_path: Path, command: str) -> None:
    result = celery(command, module_settings, tmp_path, LONGTAKE_LEASE_S="soon")
    check_refused(result, "LONGTAKE_LEASE_S: must be a number, not 'soon'")
    assert result.returncode == 1


def test_a_misspelt_setting_is_a_warning(module_settings: Settings, tmp_path: Path) -> None:
    given = environment(module_settings) | {"LONGTAKE_LEASE": "5"}
    listed = subprocess.run(forked("tasks.cli", "list"), env=given, capture_output=True, text=True, check=False)
    inspected = celery("inspect ping", module_settings, tmp_path, LONGTAKE_LEASE="5")
    warning = "longtake: 'LONGTAKE_LEASE' is not a setting and has no effect; did you mean LONGTAKE_LEASE_S?"
    assert listed.returncode == 0
    assert listed.stderr.splitlines() == [warning]
    assert inspected.stderr.count(warning) == 1


def test_help_works_with_invalid_settings(longtake: Command, module_settings: Settings) -> None:
    result = longtake("worker", "--help", settings=module_settings.model_copy(update={"redis_url": "http://broker"}))
    assert result.returncode == 0, result.stderr


# The home folder

RENDER = "render spec.yaml -o film.mp4"
NO_PASSWD = """
import pwd
def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
"""
LONGTAKE = "from tasks.cli import main\nmain()\n"


def run_without_home(command: str, folder: Path, settings: Settings, **variables: str) -> Completed:
    """Run a command as a user without HOME and without an entry in passwd, as a random user id of a container is."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(NO_PASSWD)  # for the processes that it starts
    (folder / "site" / "longtake_of_nobody.py").write_text(NO_PASSWD + LONGTAKE)
    environ = environment(settings)
    environ["PYTHONPATH"] = f"{folder / 'site'}:{environ['PYTHONPATH']}"
    for name in ("HOME", "LONGTAKE_HOME"):
        environ.pop(name, None)
    return subprocess.run(
        forked("longtake_of_nobody", *command.split()),
        env=environ | variables,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("command", ["submit spec.yaml", RENDER, "worker"])
def test_no_home_folder(module_settings: Settings, spec: Path, tmp_path: Path, command: str) -> None:
    result = run_without_home(command.replace("ID", "abc"), tmp_path, module_settings)
    check_refused(result, "LONGTAKE_HOME: this user has no home folder", "set LONGTAKE_HOME to one that can be written")


def test_no_home_folder_but_the_setting(module_settings: Settings, spec: Path, tmp_path: Path) -> None:
    # Given / When
    given = {"LONGTAKE_HOME": str(tmp_path / "home"), "LONGTAKE_MODEL": "shapes"}
    result = run_without_home("render spec.yaml -o film.mp4", tmp_path, module_settings, **given)
    # Then
    assert result.returncode == 0, result.stderr
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["film.mp4", "film.report.json", "home", "site", "spec.yaml"]


@pytest.mark.parametrize(("command", "named"), [("worker", "SPEC"), (RENDER, "/dev/null"), (RENDER, "/proc/none")])
def test_a_home_folder_that_cannot_be_used(
    module_settings: Settings, spec: Path, tmp_path: Path, command: str, named: str
) -> None:
    home = named.replace("SPEC", str(spec))
    result = run_without_home(command, tmp_path, module_settings, HOME=home, LONGTAKE_MODEL="tiny")
    check_refused(result, "LONGTAKE_HOME", "be written")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", "spec.yaml"]
