"""`longtake render` as a newcomer runs it: the real small model, a Redis and a worker of its own."""

from __future__ import annotations

import hashlib
import json
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

from tasks.settings import Settings
from tests.conftest import ROOT, STAND_IN, environment, wait_until

HARBOUR = ROOT / "examples" / "harbour.yaml"
Longtake = Callable[..., "subprocess.CompletedProcess[str]"]
SLOW = "segments: [{prompt: a}, {prompt: b}, {prompt: c}, {prompt: d}]\nwidth: 64\nheight: 32\nframes: 17\n"


@pytest.fixture
def own(tmp_path: Path, home: Path) -> Settings:
    """Settings of a user without any server; unfinished renders are kept apart, the small model is shared."""
    (tmp_path / "home").mkdir()
    (home / "models").mkdir(exist_ok=True)
    (tmp_path / "home" / "models").symlink_to(home / "models")
    return Settings(redis_url="redis://127.0.0.1:1/0", home=tmp_path / "home")


def film_facts(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as film:
        frames = sum(1 for _ in film.decode(video=0))
    with av.open(str(path)) as film:
        picture, sound = film.streams.video[0], film.streams.audio[0]
        assert picture.duration is not None
        assert sound.duration is not None
        ends = [float(s.duration * s.time_base) for s in (picture, sound) if s.duration and s.time_base]
        return {"frames": frames, "size": (picture.width, picture.height), "ends": ends, "codec": picture.codec.name}


def start_render(own: Settings, spec: Path, out: Path, step_s: float) -> subprocess.Popen[bytes]:
    """A slow render with the stand-in engine, to be interrupted."""
    environ = environment(own.model_copy(update={"engine": STAND_IN})) | {"STAND_IN_STEP_S": str(step_s)}
    command = [sys.executable, "-m", "tasks.cli", "render", str(spec), "-o", str(out)]
    return subprocess.Popen(command, env=environ, cwd=out.parent, stderr=subprocess.PIPE, start_new_session=True)


def committed(process: subprocess.Popen[bytes], count: int) -> list[psutil.Process]:
    """Wait until `count` segments are done; everything that the render has started by then."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"segment {count + 1} of ".encode()):
            break
    return psutil.Process(process.pid).children(recursive=True)


def test_the_readme_s_example_becomes_a_film_twice_the_same(own: Settings, longtake: Longtake, tmp_path: Path) -> None:
    # When
    done = longtake("render", HARBOUR, "-o", "out/film.mp4", "--report", "out/joins", settings=own)
    # Then
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "out/joins/seams.png, out/joins/sheet.png, out/joins/seams.json"
    film, report = tmp_path / "out" / "film.mp4", json.loads((tmp_path / "out" / "film.json").read_text())
    facts = film_facts(film)
    assert (facts["frames"], facts["size"], facts["codec"]) == (66, (96, 64), "h264")
    assert abs(facts["ends"][0] - facts["ends"][1]) < 1 / 24
    assert report["frames"] == 66
    assert report["sha256"] == hashlib.sha256(film.read_bytes()).hexdigest()
    assert report["audio_samples"] == round(66 / 24 * report["audio_sample_rate"])
    assert [segment["prompt"] for segment in report["segments"]][1] == "gulls follow the boat"
    assert list((own.home / "renders").iterdir()) == []
    # When it is rendered again at once
    again = longtake("render", HARBOUR, "-o", "out/film.mp4", settings=own)
    # Then
    assert again.returncode == 0, again.stderr
    assert again.stdout == ""
    assert json.loads((tmp_path / "out" / "film.json").read_text())["sha256"] == report["sha256"]


def test_a_film_that_begins_with_an_image_beside_its_spec(own: Settings, longtake: Longtake, tmp_path: Path) -> None:
    # Given a spec in another folder than the one from which it is rendered
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "job.yaml").write_text(f"{SLOW}image: boat.jpg\n")
    fast = own.model_copy(update={"engine": STAND_IN})
    missing = longtake("render", "specs/job.yaml", "-o", "film.mp4", settings=fast)
    assert missing.returncode == 1
    assert "boat.jpg: No such file" in missing.stderr
    # When its image is there
    Image.new("RGB", (300, 200), "navy").save(tmp_path / "specs" / "boat.jpg")
    done = longtake("render", "specs/job.yaml", "-o", "film.mp4", settings=fast)
    # Then
    assert done.returncode == 0, done.stderr
    assert film_facts(tmp_path / "film.mp4")["frames"] == 17 + 3 * 8


def test_a_state_goes_on_in_another_film(own: Settings, longtake: Longtake, tmp_path: Path) -> None:
    # Given a worker's state, exported as a file
    state = {"kind": "ltx2.v1", "payload": _harbour_state(own, tmp_path)}
    (tmp_path / "harbour.state.json").write_text(json.dumps(state))
    # When
    lighthouse = ROOT / "examples" / "lighthouse.yaml"
    done = longtake("render", lighthouse, "--from-state", "harbour.state.json", "-o", "l.mp4", settings=own)
    # Then its film begins where the other ended
    assert done.returncode == 0, done.stderr
    assert film_facts(tmp_path / "l.mp4")["frames"] == 25 - 9


def _harbour_state(own: Settings, folder: Path) -> dict[str, Any]:
    from ltx2.engine import Engine
    from ltx2.request import SegmentRequest
    from ltx2.timeline import SegmentShape, exact, first_timing

    shape = SegmentShape(25, exact(24))
    output = Engine.load("tiny", device="cpu").run(SegmentRequest("a boat", 7, 96, 64, first_timing(shape)))
    return output.state.to_continuation_state().payload


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_interrupted_render_leaves_no_process_and_goes_on(own: Settings, tmp_path: Path, number: int) -> None:
    # Given a render with one segment done
    spec, out = tmp_path / "slow.yaml", tmp_path / "film.mp4"
    spec.write_text(SLOW)
    first = start_render(own, spec, out, step_s=0.3)
    children = committed(first, 1)
    assert len(children) >= 3  # Redis, the worker, its child
    # When
    first.send_signal(number)
    _, said = first.communicate(timeout=30)
    # Then
    assert first.returncode == 130
    assert b"Run the same command again to resume" in said
    assert not [child for child in children if child.is_running()]
    assert not out.exists()
    # When the same command runs again
    second = start_render(own, spec, out, step_s=0.01)
    _, said = second.communicate(timeout=60)
    # Then what was done is not done again
    assert second.returncode == 0, said
    done = int(re.findall(rb"resuming: (\d) of 4 segments already rendered", said)[0])
    assert 1 <= done < 4  # a second one may end while the signal is on its way
    report = json.loads(out.with_suffix(".json").read_text())
    assert [segment["engine_s"] > 1 for segment in report["segments"]] == [True] * done + [False] * (4 - done)


def test_kill_9_of_a_render_leaves_no_process_and_it_goes_on(own: Settings, tmp_path: Path) -> None:
    # Given
    spec, out = tmp_path / "slow.yaml", tmp_path / "film.mp4"
    spec.write_text(SLOW)
    first = start_render(own, spec, out, step_s=0.3)
    children = committed(first, 1)
    # When
    first.kill()
    first.communicate()
    # Then
    wait_until(lambda: not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE], timeout_s=10)
    short = own.model_copy(update={"lease_s": 1.0})
    second = start_render(short, spec, out, step_s=0.01)
    _, said = second.communicate(timeout=60)
    assert second.returncode == 0, said
    assert film_facts(out)["frames"] == 17 + 3 * 8


def test_the_same_render_runs_once_at_a_time(own: Settings, tmp_path: Path, longtake: Longtake) -> None:
    # Given
    spec = tmp_path / "slow.yaml"
    spec.write_text(SLOW)
    first = start_render(own, spec, tmp_path / "film.mp4", step_s=0.3)
    committed(first, 0)
    # When
    second = longtake("render", spec, "-o", "other.mp4", settings=own)
    # Then
    assert second.returncode == 1
    assert "is being rendered already" in second.stderr
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)


def test_a_render_leaves_the_deployment_of_its_user_alone(own: Settings, tmp_path: Path, longtake: Longtake) -> None:
    # Given a user whose environment names the servers of a deployment, which cannot be reached
    elsewhere = own.model_copy(update={"blob_url": "redis://127.0.0.1:1/0", "engine": STAND_IN})
    (tmp_path / "job.yaml").write_text(SLOW)
    # When / Then
    done = longtake("render", "job.yaml", "-o", "film.mp4", settings=elsewhere)
    assert done.returncode == 0, done.stderr
