"""The benchmarks that need no GPU run with the options of docs/performance.md, at minimal size."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROMPT = "a red circle moves left over a blue background, low hum"
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("codec", ["--rounds=1", "--frames=2", "--sizes", "320x64"]),
        ("blobs", ["--rounds=1", "--sizes", "1"]),
        ("handoff", ["--segments=3", "--size=64x64", "--frames=17", "--scale=0"]),
        ("scale", ["--jobs=20", "--segments=10", "--workers=1"]),
        ("memory", ["--device=cpu"]),
    ],
)
def test_a_benchmark_prints_a_table_and_writes_its_figures(name: str, options: list[str], tmp_path: Path) -> None:
    # When
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *options, f"--json={tmp_path / 'figures.json'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    # Then
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["rows"]
    assert f"| {next(iter(figures['rows'][0]))} |" in re.sub(" +", " ", done.stdout)


def test_the_check_of_a_model_renders_two_segments_and_says_whether_they_join(tmp_path: Path) -> None:
    # When
    options = ["shapes", "--size=192x128", "--frames=25", f"--prompt={PROMPT}"]
    command = [sys.executable, str(BENCHMARKS / "real.py"), *options, f"--json={tmp_path / 'figures.json'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    # Then
    assert done.returncode == 0, done.stderr + done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [row["part"] for row in figures["rows"]] == ["load", "segment 0", "segment 1"]
    assert (figures["broken"], figures["variant"]) == ([], "LTX-2.3, distilled")
    assert len(json.loads((tmp_path / "joins/seams.json").read_text())["seams"]) == 1
    assert (tmp_path / "real.mp4").stat().st_size > 1000


def test_a_benchmark_without_its_gpu_fails_with_the_reason(tmp_path: Path) -> None:
    # When
    command = [sys.executable, str(BENCHMARKS / "segment.py")]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env={"CUDA_VISIBLE_DEVICES": ""}
    )
    # Then
    assert done.returncode == 1
    assert "needs a CUDA device" in done.stderr


def test_hosts_cannot_be_made_without_their_tools(tmp_path: Path) -> None:
    # When
    command = [sys.executable, "-m", "benchmarks.network"]
    environ = {"PYTHONPATH": str(BENCHMARKS.parent), "PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environ)
    # Then
    assert done.returncode == 1
    assert done.stderr == "benchmarks.network needs root, and `ip` (Debian: iproute2), to make network namespaces\n"
