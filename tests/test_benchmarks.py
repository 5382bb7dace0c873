"""The benchmarks that need no GPU run with the options of docs/performance.md, at minimal size."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from benchmarks import rank_rows
from benchmarks.slowdown import Slowdown, against_neighbours
from tests.conftest import STAND_IN

SERVE = ("--clients=5", "--players=2", "--workers=1", "--minutes=0.2", "--limit=300", "--rounds=1", "--settle=1")
PARALLEL = ("--device=cpu", "--precisions=fp32", "--sizes=64x64", "--frames=17", "--segments=1")
RANKS = ("--device=cpu", "--engine=ltx2.engine:Engine", "--model=tiny")
PROMPT = "a red circle moves left over a blue background, low hum"
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a benchmark in this process, which has imported torch and diffusers; returns its figures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGTAKE_HOME", str(home))
    monkeypatch.syspath_prepend(str(BENCHMARKS.parent))

    def run_here(name: str, *options: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", [name, *options, f"--json={tmp_path / 'figures.json'}"])
        try:
            runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
        figures: dict[str, Any] = json.loads((tmp_path / "figures.json").read_text())
        return figures

    return run_here


def check_table(figures: dict[str, Any], printed: str) -> None:
    assert figures["rows"]
    assert f"| {next(iter(figures['rows'][0]))} |" in re.sub(" +", " ", printed)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("codec", ["--rounds=1", "--frames=2", "--sizes", "320x64"]),
        ("blobs", ["--rounds=1", "--sizes", "1"]),
        pytest.param("memory", ["--device=cpu"], marks=pytest.mark.faults),
        pytest.param(
            "takes", ["--retakes=1", "--joins=1", "--best-of=2", "--tracks=0", "--images=0"], marks=pytest.mark.faults
        ),
    ],
)
def test_a_benchmark_prints_a_table_and_writes_its_figures(
    run: Run, capsys: pytest.CaptureFixture[str], name: str, options: list[str]
) -> None:
    check_table(run(name, *options), capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("handoff", ["--segments=3", "--size=64x64", "--frames=17", "--scale=0"]),
        *(
            pytest.param(name, options, marks=pytest.mark.faults)
            for name, options in (
                ("fork", ["--segments=4", "--after=2"]),
                ("scale", ["--jobs=4", "--segments=5", "--workers=1"]),
                ("parts", ["--parts=2", "--segments=1", "--seconds=0.1", "--workers=1"]),
                ("takes", ["--jobs=1"]),
                ("decoding", ["--device=cpu", "--sizes=128x64", "--frames=9", "--rounds=1"]),
                ("parallel", [*PARALLEL, "--parts", "calls", "segments", "guidance"]),
                ("ranks", [*RANKS, "--size=64x64", "--frames=17"]),
                ("fanout", ["--clients=3", "--players=2", "--seconds=1"]),
                ("serve", [*SERVE, "--size=64x32", "--frames=17", f"--engine={STAND_IN}"]),
            )
        ),
    ],
)
def test_a_benchmark_that_starts_processes_does_too(name: str, options: list[str], tmp_path: Path) -> None:
    # When it runs as a file, as docs/performance.md says
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *options, f"--json={tmp_path / 'figures.json'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    # Then
    assert done.returncode == 0, done.stderr
    check_table(json.loads((tmp_path / "figures.json").read_text()), done.stdout)


def measure_on(rank: int) -> rank_rows.Measure:
    """Measures the sum of all ranks, unless rank 1 does something else."""

    def measure(rank_1: str) -> rank_rows.Row:
        if rank == 1 and rank_1 == "fails":
            raise MemoryError("no memory")
        if rank == 1 and rank_1 == "dies":
            os._exit(1)
        if rank == 1 and rank_1 == "hangs":
            time.sleep(60)
        total = torch.tensor(rank + 1)
        dist.all_reduce(total)
        return {"sum": int(total)}

    return measure


@pytest.mark.faults
def test_a_rank_that_fails_costs_a_benchmark_one_row() -> None:
    # Given
    works = [{"rank_1": does} for does in ("works", "fails", "dies", "works", "hangs", "works")]
    # When
    rows = list(rank_rows.measured(2, "cpu", measure_on, works, limit_s=30))
    # Then
    assert [row.get("error", row.get("sum")) for row in rows] == [
        3,
        "rank 1: MemoryError: no memory",
        "rank 1 died",
        3,
        "nothing was measured within 30 s",
        3,
    ]
    with pytest.raises(SystemExit, match=r"^failed: rank_1 fails, error rank 1: MemoryError: no memory\nfailed: "):
        rank_rows.exit_if_failed(rows)


def test_the_check_of_a_model_renders_two_segments_and_says_whether_they_join(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # When
    figures = run("real", "shapes", "--size=192x128", "--frames=25", f"--prompt={PROMPT}")
    # Then
    assert [row["part"] for row in figures["rows"]] == ["load", "segment 0", "segment 1"]
    assert (figures["broken"], figures["variant"]) == ([], "LTX-2.3, distilled")
    assert len(json.loads((tmp_path / "joins/seams.json").read_text())["seams"]) == 1
    assert "continuity: the segments join\n" in capsys.readouterr().out
    assert (tmp_path / "real.mp4").stat().st_size > 1000
    # and it says in one line what is wrong with a model
    with pytest.raises(SystemExit, match="no such model folder"):
        run("real", "./none")
    # and what is wrong with its arguments before it loads the model
    with pytest.raises(SystemExit, match="width is 100; it must be a positive multiple of 32"):
        run("real", "./none", "--size=100x64")


def test_windows_are_compared_with_their_neighbours_and_the_result_says_how_sure_it_is() -> None:
    # Given a machine that gets slower evenly, work that takes 3 % longer in every second window, and one odd piece
    quiet = [[1 + 0.1 * index] * 3 for index in range(13)]
    windows = [
        ("with", [1.03 * one for one in took[1:]] + [9.0]) if index % 2 else ("quiet", took)
        for index, took in enumerate(quiet)
    ]
    # When
    found = Slowdown.of(against_neighbours(windows, "with", "quiet"))
    # Then
    assert found is not None
    assert (round(found.median, 3), round(found.low, 3), found.pairs) == (0.03, 0.03, 6)
    assert (found.verdict(0.02), found.verdict(0.04)) == ("MORE than 2%", "at most 4%")
    # and figures on both sides of a limit, or few of them, decide nothing
    assert Slowdown.of([0.0, 0.01, 0.01, 0.01, 0.02, 0.05]).verdict(0.03).startswith("not certain")  # type: ignore[union-attr]
    assert Slowdown.of([0.0] * 5).verdict(0.02).startswith("too few windows")  # type: ignore[union-attr]
    # nor do windows with too few pieces, or without neighbours
    assert not against_neighbours([("quiet", [1.0] * 3), ("with", [1.0] * 2), ("quiet", [1.0] * 3)], "with", "quiet")
    assert not against_neighbours(windows[:2], "with", "quiet")


def test_a_benchmark_without_its_gpu_fails_with_the_reason(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        run("segment")


def test_hosts_cannot_be_made_without_their_tools(tmp_path: Path) -> None:
    # When
    command = [sys.executable, "-m", "benchmarks.network"]
    environ = {"PYTHONPATH": str(BENCHMARKS.parent), "PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environ)
    # Then
    assert done.returncode == 1
    assert done.stderr == "benchmarks.network needs root, and `ip` (Debian: iproute2), to make network namespaces\n"
