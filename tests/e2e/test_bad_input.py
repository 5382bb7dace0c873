"""Invalid specs, models, jobs and states: one clear line each, and nothing queued or started."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.client.job import Job
from tasks.client.submit import list_jobs, submit
from tasks.settings import Settings
from tests.conftest import environment
from tests.e2e.refusals import COMMANDS, SPEC, Command, check_refused

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
def test_an_invalid_spec(
    longtake: Command, module_settings: Settings, job: Job, spec: Path, text: str, words: str
) -> None:
    # Given
    spec.write_text(text)
    # When
    result = longtake("submit", spec, settings=module_settings)
    # Then
    check_refused(result, words)
    assert [status.job_id for status in list_jobs(settings=module_settings)] == [job.id]


def test_every_error_in_a_spec_is_reported_at_once(
    longtake: Command, module_settings: Settings, spec: Path, tmp_path: Path
) -> None:
    # Given
    spec.write_text("width: 100\nheight: 33\nframes: 26\ncolour: red\nsegments: [{seed: 1}]\n")
    # When
    result = longtake("render", spec, "-o", "film.mp4", settings=module_settings)
    # Then there is one line per error
    check_refused(result, "width", "height", "frames", "colour", "segments.0.prompt", lines=5)
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


def test_a_missing_spec(longtake: Command, module_settings: Settings, spec: Path) -> None:
    absent, similar = (longtake("submit", name, settings=module_settings) for name in ("absent.yaml", "spec.yml"))
    check_refused(absent, "absent.yaml: No such file", "`longtake init` writes a spec")
    check_refused(similar, "spec.yml: No such file", f"did you mean {spec.name}?")


@pytest.mark.parametrize("arguments", ["submit", "save abc", "paint spec.yaml", "state", "worker --only pictures"])
def test_invalid_arguments(longtake: Command, module_settings: Settings, arguments: str) -> None:
    check_refused(longtake(*arguments.split(), settings=module_settings), "--help")


# Models


@pytest.mark.parametrize(
    ("model", "words"),
    [("./absent", "no such model folder: ./absent"), ("half", "has no connectors"), ("empty", "model_index.json")],
)
def test_a_missing_or_incomplete_model(
    longtake: Command, module_settings: Settings, spec: Path, tmp_path: Path, model: str, words: str
) -> None:
    # Given
    (tmp_path / "empty").mkdir()
    (tmp_path / "half" / "audio_vae").mkdir(parents=True)
    (tmp_path / "half" / "model_index.json").write_text('{"audio_vae": ["diffusers", "AutoencoderKLLTX2Audio"]}')
    spec.write_text(f"model: {model}\n{SPEC}")
    fresh = module_settings.model_copy(update={"home": tmp_path / "home", "model": model})
    # When
    render = longtake("render", spec, "-o", "film.mp4", settings=fresh)
    worker = longtake("worker", settings=fresh)
    # Then
    check_refused(render, "spec.yaml:1: model: ", words)
    check_refused(worker, words)
    assert not (tmp_path / "home").exists()
    assert not (tmp_path / "film.mp4").exists()


def test_a_missing_model_of_a_worker_started_by_celery(module_settings: Settings, tmp_path: Path) -> None:
    # Given
    environ = environment(module_settings.model_copy(update={"model": "./absent"}))
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker"]
    # When
    ended = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    # Then
    assert ended.returncode == 1
    assert "longtake: no such model folder: ./absent" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_model_folder_relative_to_the_working_directory(
    longtake: Command, module_settings: Settings, spec: Path, tiny: Path, tmp_path: Path
) -> None:
    # Given
    settings = module_settings.model_copy(update={"model": "model"})
    (tmp_path / "model").symlink_to(tiny)
    # When
    result = longtake("render", spec, "-o", "film.mp4", settings=settings)
    # Then
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "film.report.json").read_text())["model"] == str(tmp_path / "model")


# Jobs


@pytest.mark.parametrize("command", [command for command in COMMANDS if "ID" in command])
@pytest.mark.parametrize(("job_id", "words"), [("abc", "there is no job abc"), ("../ABC", "is not a job id")])
def test_a_missing_job(longtake: Command, module_settings: Settings, command: str, job_id: str, words: str) -> None:
    check_refused(longtake(*command.replace("ID", job_id).split(), settings=module_settings), words)


def test_a_job_in_the_wrong_state(
    longtake: Command, module_settings: Settings, job: Job, spec: Path, tmp_path: Path
) -> None:
    # Given
    queued = submit(spec, settings=module_settings)
    # When
    save = longtake("save", queued.id, "-o", "film.mp4", settings=module_settings)
    export = longtake("state", "export", queued.id, "--segment", 0, "-o", "state.json", settings=module_settings)
    beyond = longtake("state", "export", job.id, "--segment", 2, settings=module_settings)
    cancel = longtake("cancel", job.id, settings=module_settings)
    queued.cancel()
    queued.forget()
    # Then
    check_refused(save, "is queued; only a job that was done has a film")
    check_refused(export, "has no state after segment 0: up to there, none is rendered yet")
    check_refused(beyond, "has no state after segment 2: up to there, ")
    check_refused(cancel, "is already done")
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


# States


def broken_states(state: dict[str, Any], clip: str) -> list[tuple[str, str]]:
    """Texts of state files, each with a part of its error message."""

    def changed(**changes: Any) -> str:
        return json.dumps({**state, "payload": {**state["payload"], **changes}})

    return [
        ("not JSON", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must be a mapping"),
        ('{"kind": "ltx2.v1"}', "needs a `kind` and a `payload`"),
        (json.dumps({**state, "kind": "ltx9.v1"}), "ltx9.v1"),
        (changed(video={"frames_b64": ["AAAA"]}), "video"),
        (changed(video_position_offset_sec=float("nan")), "video_position_offset_sec"),
        (changed(video={"blob_id": f"sha256:{'0' * 64}", "frame_count": 9}), "sha256:"),
        (changed(metadata={"longtake_metadata_blob": clip}), "metadata"),
        (changed(video=None, audio=None), "nothing to continue"),
    ]


def test_invalid_states(longtake: Command, module_settings: Settings, job: Job, spec: Path, tmp_path: Path) -> None:
    # Given
    clip = job.summary()["segments"][0]["blobs"]["clip"]
    path = tmp_path / "state.json"
    for text, words in broken_states(job.state(0), clip):
        path.write_text(text)
        # When
        result = longtake("submit", spec, "--from-state", path, settings=module_settings)
        # Then
        check_refused(result, words)
    assert [status.job_id for status in list_jobs(settings=module_settings)] == [job.id]


@pytest.mark.parametrize(
    ("line", "words"),
    [("height: 64", "64x32, the spec says 64x64"), ("overlap: 1", "9 frames, the spec's overlap is 1")],
)
def test_a_state_that_does_not_match_the_spec(
    longtake: Command, module_settings: Settings, job: Job, spec: Path, tmp_path: Path, line: str, words: str
) -> None:
    # Given
    path = tmp_path / "state.json"
    path.write_text(json.dumps(job.state(1)))
    spec.write_text(SPEC.replace("height: 32", line) if line.startswith("height") else f"{line}\n{SPEC}")
    # When / Then
    check_refused(longtake("submit", spec, "--from-state", path, settings=module_settings), words)
    check_refused(
        longtake("submit", spec, "--from-state", "absent.json", settings=module_settings), "absent.json: No such file"
    )
