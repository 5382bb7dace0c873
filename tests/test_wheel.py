"""The wheel: it contains every file of the packages, and renders a film without the checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tasks.settings import Settings
from tests.conftest import ROOT, environment

PACKAGES = ("blobstore", "ltx2", "tasks")
SPEC = "model: shapes\nwidth: 64\nheight: 64\nframes: 9\noverlap: 1\nsegments: [{prompt: a red ball}]\n"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def pip(*arguments: object) -> None:
    """Run pip offline."""
    command = [*PIP, *map(str, arguments), "--no-deps", "--no-index"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the checkout: setuptools writes `build/` into its source folder."""
    source, out = tmp_path_factory.mktemp("source") / "longtake", tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "out"))
    pip("wheel", "--no-build-isolation", "--wheel-dir", out, source)
    (built,) = out.iterdir()
    return built


def test_the_wheel_contains_every_file_of_the_packages(wheel: Path) -> None:
    # Given the files of the packages in the checkout
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    expected = {str(path.relative_to(ROOT)) for path in paths if path.parent.name != "__pycache__"}
    # When
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    # Then
    assert names == expected
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {"blobstore/redis/lua/pin.lua", "tasks/jobs/lua/commit_segment.lua"} <= names
    assert "ltx2/checkpoints/shapes/transformer/diffusion_pytorch_model.safetensors" in names


def test_the_installed_wheel_renders_a_film(wheel: Path, tmp_path: Path) -> None:
    # Given the wheel in a folder of its own, and a working directory elsewhere
    installed, folder = tmp_path / "installed", tmp_path / "elsewhere"
    pip("install", "--target", installed, wheel)
    folder.mkdir()
    (folder / "spec.yaml").write_text(SPEC)
    settings = Settings(redis_url="redis://127.0.0.1:1/0", home=tmp_path / "home")
    environ = environment(settings) | {"PYTHONPATH": str(installed)}

    def run(*command: object) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, command)], env=environ, cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    # When
    origins = run("-c", "import blobstore, ltx2, tasks; print(blobstore.__path__, ltx2.__path__, tasks.__path__)")
    run(installed / "bin" / "longtake", "render", "spec.yaml", "-o", "film.mp4")
    # Then the packages are those of the wheel, and there is a film
    assert origins.split() == [f"['{installed / package}']" for package in PACKAGES]
    summary = json.loads((folder / "film.report.json").read_text())
    assert (summary["model"], summary["frames"]) == ("shapes", 9)
    assert (folder / "film.mp4").stat().st_size > 1024
