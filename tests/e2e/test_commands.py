"""Small helps of the command line: ids by their beginning, specs on standard input, hints, dry runs, a first spec."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ltx2.checkpoints.shapes_prompts import HELP
from tasks.cli.command import main
from tasks.client.job import Job
from tasks.client.submit import list_jobs, submit
from tasks.errors import WaitTimeoutError
from tasks.settings import Settings
from tests.conftest import environment, wait_until
from tests.e2e.refusals import SPEC, Command, check_refused
from tests.ltx2.media.sources.videos import video


@pytest.fixture
def queued(module_settings: Settings, spec: Path) -> Job:
    """A job that no worker takes."""
    return submit(spec, settings=module_settings)


def run(settings: Settings, folder: Path, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tasks", *arguments]
    return subprocess.run(
        command, env=environment(settings), cwd=folder, input=text, capture_output=True, text=True, check=False
    )


def test_the_beginning_of_an_id_names_a_job(longtake: Command, module_settings: Settings, job: Job) -> None:
    # When / Then
    found = longtake("status", job.id[:12], settings=module_settings)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(job.id)
    # Given two jobs that begin alike
    for job_id in ("zz1", "zz2"):
        submit({"segments": [{"prompt": "a"}]}, settings=module_settings, job_id=job_id)
    # When / Then
    check_refused(longtake("cancel", "zz", settings=module_settings), "2 jobs begin with 'zz': zz1, zz2; give more")
    check_refused(longtake("cancel", "zz3", settings=module_settings), "zz3")


def test_a_spec_on_standard_input_and_options_instead_of_its_keys(module_settings: Settings, tmp_path: Path) -> None:
    # When
    done = run(module_settings, tmp_path, "submit", "-", "--model", "tiny", "--seed", "7", text=SPEC)
    # Then
    assert done.returncode == 0, done.stderr
    job_id = done.stdout.strip()
    assert done.stderr == f"Next: longtake watch {job_id}; longtake save {job_id} -o film.mp4\n"
    head = Job(job_id, settings=module_settings)._deployment.jobs.head(job_id)
    assert (head.model, head.seed, head.title) == ("tiny", 7, "harbour")
    # When / Then
    refused = run(module_settings, tmp_path, "submit", "-", "--seed", "-1", text=SPEC)
    check_refused(refused, "options: seed: ")


def test_a_fork_shares_what_is_rendered(longtake: Command, module_settings: Settings, job: Job, spec: Path) -> None:
    # Given a spec with another prompt in the segment that is shared, too
    spec.write_text(SPEC.replace("a boat", "a ship").replace("gulls", "fog"))
    # When
    forked = longtake("fork", job.id, "--after", "0", spec, settings=module_settings)
    # Then
    assert forked.returncode == 0, forked.stderr
    fork_id = forked.stdout.strip()
    warning, hint = forked.stderr.splitlines()
    assert warning == f"warning: segment 0 of the spec: another prompt than that of job {job.id}, which is kept"
    assert hint == f"Next: longtake watch {fork_id}; longtake save {fork_id} -o film.mp4"
    fork = Job(fork_id, settings=module_settings)
    assert (fork.status().committed, fork.status().clips) == (1, 1)
    assert fork._deployment.jobs.prompts(fork_id) == {0: "a boat", 1: "fog"}
    # And lists say where it is from
    origin = f"fork of {job.id} after segment 0"
    listed, shown = (
        CliRunner().invoke(main, words, env=environment(module_settings)).stdout
        for words in (["list"], ["status", fork_id])
    )
    [row] = [line for line in listed.splitlines() if line.startswith(fork_id)]
    assert f"harbour ({origin}" in row
    assert f"\n  {origin}\n" in shown
    assert "fork of" not in listed.replace(row, "")
    # When / Then
    spec.write_text(SPEC.replace("frames: 17", "frames: 25"))
    refused = longtake("fork", job.id, "--after", "0", spec, settings=module_settings)
    check_refused(refused, f"frames: must be that of job {job.id}, ", ": 25 here, 17 there")


def test_a_dry_run_checks_and_renders_nothing(
    longtake: Command, module_settings: Settings, spec: Path, job: Job
) -> None:
    # Given a deployment that has rendered such a job, and a user who has rendered nothing
    jobs = list_jobs(settings=module_settings)
    fresh = module_settings.model_copy(update={"home": spec.parent / "home"})
    # When
    render = longtake("render", spec, "-o", "film.mp4", "--dry-run", settings=fresh)
    queue = longtake("submit", spec, "--dry-run", "--seed", "99", settings=module_settings)
    larger = longtake("submit", spec, "--dry-run", "--model", "owner/name", settings=module_settings)
    # Then
    for result in (render, queue, larger):
        assert result.returncode == 0, result.stderr
        assert result.stderr.startswith("harbour: 1.04 s, 25 frames, 64x32, 2 segments of 17 frames\nblobs: at most ")
    assert "\nmemory: shapes is a small model; its weights have less than 0.1 GB\ntime: unknown, " in render.stderr
    time = r"\ntime: about 0:\d\d on one worker, at \d+\.\d s for a segment, as for job [0-9a-f]+\n$"
    assert re.search(time, queue.stderr), queue.stderr
    assert "\nmemory: unknown, because the model is not on this machine; see `longtake model check`" in larger.stderr
    assert "\ntime: unknown, " in larger.stderr
    assert list_jobs(settings=module_settings) == jobs
    assert [path.name for path in spec.parent.iterdir()] == [spec.name]


@pytest.mark.parametrize("command", [("submit",), ("render", "-o", "film.mp4")])
def test_a_dry_run_refuses_and_warns_as_the_real_run_does(
    longtake: Command, module_settings: Settings, job: Job, spec: Path, command: tuple[str, ...]
) -> None:
    # Given a state, and sound that is longer than the film
    exported = longtake("state", "export", job.id, "--segment", "1", "-o", "state.json", settings=module_settings)
    assert re.fullmatch(r"state\.json: [\d,]+ bytes\. Next: .*--from-state state\.json, or render\n", exported.stderr)
    sound = np.zeros((2, 3 * 8000), np.float32)
    (spec.parent / "track.wav").write_bytes(video(None, kind="wav", sound=sound, sound_codec="pcm_s16le", rate=8000))
    # When / Then a spec that cannot continue the state is refused, with the same words
    for text, words in {
        SPEC.replace("width: 64", "width: 96"): "the state to continue cannot be used",
        f"audio: track.wav\n{SPEC}": "a job that continues a state cannot have it; remove it",
    }.items():
        spec.write_text(text)
        planned, real = (
            longtake(command[0], spec, *command[1:], "--from-state", "state.json", *more, settings=module_settings)
            for more in (("--dry-run",), ())
        )
        check_refused(planned, words)
        assert planned.stderr == real.stderr
    # And the warnings come, too: of the sound, and of what the small model was not trained on
    spec.write_text(f"audio: track.wav\n{SPEC}")
    shapes = module_settings.model_copy(update={"engine": Settings().engine})
    said = longtake(command[0], spec, *command[1:], "--dry-run", settings=shapes).stderr.splitlines()
    assert [line for line in said if line.startswith("warning: audio: the track has 3.00 s, the film 1.04 s: ")]
    size = (
        "the small model `shapes` was trained on segments of 192x128 and 25 frames, and shows anything at 64x32 and 17"
    )
    assert len([line for line in said if line.startswith(f"warning: {size}")]) == 1
    assert len([line for line in said if line.startswith(f"warning: segment 0: {HELP}")]) == 1
    # And a real submission has the same lines; those about prompts come with its segments
    if command[0] == "submit":
        real = longtake("submit", spec, settings=shapes).stderr.splitlines()
        assert [line for line in real if line.startswith("warning: ")] == [
            line for line in said if line.startswith("warning: ") and HELP not in line
        ]


def test_a_first_spec_can_be_rendered_as_it_is(longtake: Command, module_settings: Settings, tmp_path: Path) -> None:
    # When
    made = longtake("init", settings=module_settings)
    # Then
    assert made.stderr.endswith("Next: longtake render film.yaml -o film.mp4\n")
    planned = longtake("render", "film.yaml", "-o", "film.mp4", "--dry-run", settings=module_settings)
    assert planned.returncode == 0, planned.stderr
    assert "small model `shapes`" not in planned.stderr
    # When / Then
    check_refused(longtake("init", settings=module_settings), "film.yaml exists", "--force")
    check_refused(longtake("init", "a/film.json", settings=module_settings), "is YAML; name it a/film.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["film.yaml"]


def heed_interrupts() -> None:
    """Processes that a shell starts in the background ignore Ctrl-C, and so do their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupting_a_watch_says_that_the_job_goes_on(module_settings: Settings, queued: Job, tmp_path: Path) -> None:
    # Given
    log = tmp_path / "log"
    command = [sys.executable, "-m", "tasks", "watch", queued.id]
    with log.open("wb") as file:
        watching = subprocess.Popen(
            command,
            env=environment(module_settings),
            stderr=file,
            start_new_session=True,
            preexec_fn=heed_interrupts,
        )
    wait_until(lambda: "0 of 2 segments rendered" in log.read_text(), what="the first line")
    # When
    watching.send_signal(signal.SIGINT)
    # Then
    assert watching.wait(30) == 130
    assert f"The job goes on; `longtake cancel {queued.id}` stops it." in log.read_text()
    assert not queued.status().finished


def test_commands_that_steer_a_job_say_what_became_of_it(module_settings: Settings, queued: Job) -> None:
    def said(*words: str) -> str:
        command, *options = words
        found = CliRunner().invoke(main, [command, queued.id, *options], env=environment(module_settings))
        return found.stdout.removeprefix(f"job {queued.id}").strip(": \n")

    assert said("pause") == "paused · 0 of 2 segments rendered"
    assert said("prompt", "1", "another") == "segment 1 has another prompt"
    assert said("keep", "--for", "12h") == "is kept for 12h from now"
    assert said("keep") == "is kept until it is released"
    assert said("keep", "--release") == "is kept no longer than other jobs"
    assert said("resume").endswith(" · 0 of 2 segments rendered")
    assert said("cancel") == "cancelled"
    assert said("forget") == "is deleted"


def test_waiting_ends_after_its_timeout(queued: Job) -> None:
    with pytest.raises(WaitTimeoutError, match=rf"job {queued.id} is queued after 0.1 s; it goes on"):
        queued.wait(timeout=0.1)


def test_a_first_spec_goes_into_a_folder_that_does_not_exist(
    longtake: Command, module_settings: Settings, tmp_path: Path
) -> None:
    assert longtake("init", "new/films/first.yaml", settings=module_settings).returncode == 0
    assert (tmp_path / "new" / "films" / "first.yaml").is_file()


def test_an_empty_list_says_what_to_do(settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"home": tmp_path})  # other tests leave renders in the home of all

    def said(*words: str) -> tuple[str, str]:
        found = CliRunner().invoke(main, words, env=environment(settings))
        assert found.exit_code == 0, found.output
        return found.stdout, found.stderr

    # Given nothing
    submit_one = "`longtake submit SPEC` queues one\n"
    assert said("list") == ("", f"no job; {submit_one}")
    assert said("list", "--state", "failed", "--state", "paused") == ("", f"no job is failed or paused; {submit_one}")
    assert said("list", "--json") == ("", f"no job; {submit_one}")
    assert said("workers") == ("", "no worker; `longtake worker` starts one\n")
    assert said("workers", "--json") == ("[]\n", "")
    assert said("gc", "--renders") == ("", f"no render is kept under {settings.home}\n")
    # Given a job without takes
    queued = submit({"segments": [{"prompt": "a"}]}, settings=settings)
    assert said("takes", queued.id)[1] == "no take; `longtake retake JOB --segment K` renders a segment again\n"


def test_a_grace_that_is_no_number_is_refused(longtake: Command, module_settings: Settings) -> None:
    check_refused(longtake("gc", "--grace", "nan", settings=module_settings), "--grace: nan is not a number")
