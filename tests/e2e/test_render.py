"""`longtake render` as a new user runs it: a small real model, and a Redis and a worker that it starts itself."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import psutil
import pytest
from PIL import Image

from ltx2.request import SegmentRequest
from ltx2.timeline import SegmentShape, exact, first_timing
from tasks.client.submit import submit
from tasks.embedded.servers import embedded_deployment
from tasks.embedded.servers import worker as start_worker
from tasks.settings import Settings
from tests.conftest import ROOT, STAND_IN, environment, wait_until
from tests.e2e.refusals import check_refused
from tests.stand_in import STEP_S, StandInEngine

HARBOUR = ROOT / "examples" / "harbour.yaml"
Longtake = Callable[..., "subprocess.CompletedProcess[str]"]
SLOW = "segments: [{prompt: a}, {prompt: b}, {prompt: c}, {prompt: d}]\nwidth: 64\nheight: 32\nframes: 17\n"


@pytest.fixture
def user_settings(tmp_path: Path, home: Path) -> Settings:
    """Settings of a user without servers; unfinished renders are separate, the small model is shared."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "models").symlink_to(home / "models")
    return Settings(redis_url="redis://127.0.0.1:1/0", home=tmp_path / "home")


@pytest.fixture
def fast_settings(user_settings: Settings) -> Settings:
    """The same, with the stand-in engine."""
    return user_settings.model_copy(update={"engine": STAND_IN})


def film_facts(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as film:
        frames = sum(1 for _ in film.decode(video=0))
    with av.open(str(path)) as film:
        picture, sound = film.streams.video[0], film.streams.audio[0]
        assert picture.duration is not None
        assert sound.duration is not None
        ends = [float(s.duration * s.time_base) for s in (picture, sound) if s.duration and s.time_base]
        return {"frames": frames, "size": (picture.width, picture.height), "ends": ends, "codec": picture.codec.name}


def start_render(settings: Settings, spec: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start a slow render, to be interrupted, in a new interpreter."""
    environ = environment(settings) | {STEP_S: "0.3"}
    command = [sys.executable, "-m", "tasks.cli", "render", str(spec), "-o", str(out)]
    return subprocess.Popen(command, env=environ, cwd=out.parent, stderr=subprocess.PIPE, start_new_session=True)


def wait_committed(process: subprocess.Popen[bytes], count: int) -> list[psutil.Process]:
    """Wait until `count` segments are done; returns the processes that the render has started."""
    assert process.stderr is not None
    for line in process.stderr:
        if re.search(rf"\b{count} of \d+ segments rendered", line.decode()):
            break
    return psutil.Process(process.pid).children(recursive=True)


def wait_ended(started: list[psutil.Process]) -> None:
    """Wait until these processes have ended; the kernel ends and reaps a child a moment after its parent."""

    def lives(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    wait_until(lambda: not any(map(lives, started)), what="the end of every process")


def test_the_example_in_the_readme_becomes_a_film(user_settings: Settings, longtake: Longtake, tmp_path: Path) -> None:
    # When
    done = longtake("render", HARBOUR, "-o", "out/film.mp4", "--report", "out/joins", settings=user_settings)
    # Then
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "out/joins/seams.png, out/joins/sheet.png, out/joins/seams.json"
    film, report = tmp_path / "out" / "film.mp4", json.loads((tmp_path / "out" / "film.report.json").read_text())
    facts = film_facts(film)
    assert (facts["frames"], facts["size"], facts["codec"]) == (66, (96, 64), "h264")
    assert abs(facts["ends"][0] - facts["ends"][1]) < 1 / 24
    assert report["frames"] == 66
    assert report["sha256"] == hashlib.sha256(film.read_bytes()).hexdigest()
    assert report["audio_samples"] == round(66 / 24 * report["audio_sample_rate"])
    assert [segment["prompt"] for segment in report["segments"]][1] == "gulls follow the boat"
    with_what = {"precision": "fp32", "offload": "none", "text_encoder": "cpu", "attention": "bf16"}
    assert [segment["made_with"] for segment in report["segments"]] == [with_what] * 3
    # And what the render left can be deleted
    assert longtake("gc", "--renders", settings=user_settings).stdout.endswith(" bytes, deleted\n")
    assert list((user_settings.home / "renders").iterdir()) == []


def test_files_under_home_are_the_users_alone(user_settings: Settings, tmp_path: Path) -> None:
    # Given a folder that does not exist, and a user whose files others may read
    settings = user_settings.model_copy(update={"home": tmp_path / "new" / "home", "engine": STAND_IN})
    before = os.umask(0o022)
    try:
        # When a render runs
        folder = settings.home / "renders" / "0123456789abcdef"
        with embedded_deployment(settings, folder) as embedded, start_worker(embedded, folder / "log") as worker:
            submit({"width": 64, "height": 32, "frames": 17, "segments": [{"prompt": "a"}]}, settings=embedded).wait()
            # Then its files and folders are the user's alone, and so is what its worker will write
            started = psutil.Process(worker.pid)
            for process in [started, *started.children(recursive=True)]:
                status = Path(f"/proc/{process.pid}/status").read_text()
                assert "Umask:\t0077" in status, process.cmdline()
            written = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
            assert len(written) > 5
            for path in written:
                allowed = 0o700 if path.is_dir() else 0o600
                assert path.stat().st_mode & 0o777 == allowed, path
    finally:
        os.umask(before)


def test_a_render_reads_its_image_next_to_its_spec_shows_warnings_and_ignores_other_servers(
    user_settings: Settings, longtake: Longtake, tmp_path: Path
) -> None:
    # Given a spec outside the working directory, a missing image, and an environment that names unreachable servers
    (tmp_path / "specs").mkdir()
    warned = SLOW.replace("prompt: b", "prompt: warn").replace("prompt: c", "prompt: warn")
    (tmp_path / "specs" / "job.yaml").write_text(f"{warned}image: boat.jpg\nloras: [{{path: rain.safetensors}}]\n")
    fast = user_settings.model_copy(update={"engine": STAND_IN, "blob_url": "redis://127.0.0.1:1/0"})
    missing = longtake("render", "specs/job.yaml", "-o", "film.mp4", settings=fast)
    assert missing.returncode == 1
    # Then each file that is missing is a line
    lora, image = missing.stderr.splitlines()
    assert re.match(r"longtake: \S+job\.yaml:\d+: loras\.0\.path: no such LoRA: rain\.safetensors ", lora)
    assert re.match(r"longtake: \S+job\.yaml:\d+: image: \S+boat\.jpg: No such file", image)
    # When the image exists
    (tmp_path / "specs" / "job.yaml").write_text(f"{warned}image: boat.jpg\n")
    Image.new("RGB", (300, 200), "navy").save(tmp_path / "specs" / "boat.jpg")
    done = longtake("render", "specs/job.yaml", "-o", "film.mp4", settings=fast)
    # Then the film is made, and a warning of two segments is shown once
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert film_facts(tmp_path / "film.mp4")["frames"] == 17 + 3 * 8
    assert done.stderr.count("warning: ") == done.stderr.count("warning: segment 1: the prompt is odd") == 1


def test_a_state_is_continued_in_another_film(fast_settings: Settings, longtake: Longtake, tmp_path: Path) -> None:
    # Given a state in a file
    request = SegmentRequest("a boat", 7, 96, 64, first_timing(SegmentShape(25, exact(24))))
    state = StandInEngine().run(request).state.to_continuation_state()
    (tmp_path / "harbour.state.json").write_text(json.dumps({"kind": state.kind, "payload": state.payload}))
    # When
    lighthouse = ROOT / "examples" / "lighthouse.yaml"
    done = longtake("render", lighthouse, "--from-state", "harbour.state.json", "-o", "l.mp4", settings=fast_settings)
    # Then the film begins after the frames of that state
    assert done.returncode == 0, done.stderr
    assert film_facts(tmp_path / "l.mp4")["frames"] == 25 - 9


def test_a_terminated_render_leaves_no_process_and_resumes(
    fast_settings: Settings, longtake: Longtake, tmp_path: Path
) -> None:
    # Given a render with one committed segment
    spec, out = tmp_path / "slow.yaml", tmp_path / "film.mp4"
    spec.write_text(SLOW)
    interrupt_render(fast_settings, spec, out, signal.SIGTERM)
    # When the same command runs again
    second = longtake("render", spec, "-o", out, settings=fast_settings)
    # Then committed segments are not rendered again
    assert second.returncode == 0, second.stderr
    done = int(re.findall(r"resuming: (\d) of 4 segments already rendered", second.stderr)[0])
    assert 1 <= done < 4  # a second segment may finish before the signal arrives
    report = json.loads(out.with_suffix(".report.json").read_text())
    assert [segment["engine_s"] > 1 for segment in report["segments"]] == [True] * done + [False] * (4 - done)


def interrupt_render(settings: Settings, spec: Path, out: Path, number: int) -> None:
    """Interrupt a slow render after its first segment, and check that every process has ended."""
    process = start_render(settings, spec, out)
    children = wait_committed(process, 1)
    assert len(children) >= 3  # Redis, the worker, its child
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Run the same command again to resume" in errors
    wait_ended(children)
    assert not out.exists()


def test_an_interrupted_render_keeps_what_is_unchanged_in_its_spec(
    fast_settings: Settings, longtake: Longtake, tmp_path: Path
) -> None:
    # Given an interrupted render with one committed segment or two
    spec, out = tmp_path / "slow.yaml", tmp_path / "film.mp4"
    spec.write_text(SLOW)
    interrupt_render(fast_settings, spec, out, signal.SIGINT)
    [folder] = (fast_settings.home / "renders").iterdir()
    assert json.loads((folder / "render.json").read_text())["film"] == str(out)
    # When its title, the prompt of its last segment and its number of segments change
    spec.write_text(f"title: dusk\n{SLOW.replace('{prompt: d}', '{prompt: x}, {prompt: e}')}")
    second = longtake("render", spec, "-o", out, settings=fast_settings)
    # Then the committed segments are kept, and the film has the new ones
    assert second.returncode == 0, second.stderr
    kept = int(re.findall(r"keeping (\d) of 5 segments; segment 3's prompt changed\n", second.stderr)[0])
    assert 1 <= kept < 4
    report = json.loads(out.with_suffix(".report.json").read_text())
    assert [segment["engine_s"] > 1 for segment in report["segments"]] == [True] * kept + [False] * (5 - kept)
    assert [segment["prompt"] for segment in report["segments"]] == ["a", "b", "c", "x", "e"]
    assert (report["title"], film_facts(out)["frames"]) == ("dusk", 17 + 4 * 8)


def test_a_finished_render_is_kept_for_another_title_and_more_segments(
    fast_settings: Settings, longtake: Longtake, tmp_path: Path
) -> None:
    # Given a finished film
    spec, film, report = tmp_path / "spec.yaml", tmp_path / "film.mp4", tmp_path / "film.report.json"

    def render(text: str, settings: Settings = fast_settings) -> tuple[list[str], list[float]]:
        """What a render says, and the seconds that the engine took for each segment."""
        spec.write_text(text)
        done = longtake("render", "spec.yaml", "-o", "film.mp4", "--force", settings=settings)
        assert done.returncode == 0, done.stderr
        said = [line for line in done.stderr.splitlines() if line.startswith("keeping")]
        return said, [segment["engine_s"] for segment in json.loads(report.read_text())["segments"]]

    said, first = render(SLOW)
    assert said == []
    [folder] = (fast_settings.home / "renders").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    planned = longtake("render", "spec.yaml", "-o", "other.mp4", "--dry-run", settings=fast_settings).stderr
    assert re.search(rf"\ntime: about 0:\d\d on one worker, at \d+\.\d s for a segment, as for {film}\n$", planned)
    # When it has another title and one more segment, Then only that is rendered
    longer = f"title: dusk\n{SLOW.replace('{prompt: d}', '{prompt: d}, {prompt: e}')}"
    said, took = render(longer)
    assert (said, took[:4]) == (["keeping 4 of 5 segments; segment 4 is new"], first)
    assert (json.loads(report.read_text())["title"], film_facts(film)["frames"]) == ("dusk", 17 + 4 * 8)
    # When nothing changes, Then the film is written again; and without room for finished renders, nothing is kept
    film.unlink()
    said, again = render(longer, fast_settings.model_copy(update={"renders_budget_bytes": 0}))
    assert (said, again) == (["keeping 5 of 5 segments: the film is rendered already"], took)
    assert film.exists()
    assert list((fast_settings.home / "renders").iterdir()) == []


def test_a_killed_render_leaves_no_process_and_resumes(
    fast_settings: Settings, longtake: Longtake, tmp_path: Path
) -> None:
    # Given a render with one committed segment
    spec, out = tmp_path / "slow.yaml", tmp_path / "film.mp4"
    spec.write_text(SLOW)
    first = start_render(fast_settings, spec, out)
    children = wait_committed(first, 1)
    # When
    first.kill()
    first.communicate()
    # Then every process ends, and the same command resumes
    wait_ended(children)
    second = longtake("render", spec, "-o", out, settings=fast_settings.model_copy(update={"lease_s": 1.0}))
    assert second.returncode == 0, second.stderr
    assert film_facts(out)["frames"] == 17 + 3 * 8


def test_a_render_that_the_model_refuses_leaves_nothing(
    longtake: Longtake, user_settings: Settings, tmp_path: Path
) -> None:
    # Given a spec for two stages of a model that has one
    (tmp_path / "spec.yaml").write_text("stages: 2\nsegments: [{prompt: a}]\nwidth: 64\nheight: 64\nframes: 17\n")
    # When / Then
    for more in ((), ("--dry-run",)):
        refused = longtake("render", "spec.yaml", "-o", "film.mp4", *more, settings=user_settings)
        check_refused(refused, "stages is 2, but shapes has no latent_upsampler")
        assert not (user_settings.home / "renders").exists()
    # And one that fails before any segment is rendered leaves nothing that could resume
    failing = user_settings.model_copy(update={"engine": STAND_IN, "max_attempts": 1})
    (tmp_path / "spec.yaml").write_text("segments: [{prompt: fail}]\nwidth: 64\nheight: 64\nframes: 17\n")
    failed = longtake("render", "spec.yaml", "-o", "film.mp4", settings=failing)
    assert "failed at segment 0 after 1 attempt" in failed.stderr
    assert list((user_settings.home / "renders").iterdir()) == []
