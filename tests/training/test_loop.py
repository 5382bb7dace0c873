"""Training in several runs: weights and curves are kept, in files of limited size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training import loop
from training.loop import Stage, load_weights, run


def stage(module: nn.Module, *, steps: int, average: int = 0, seen: list[int] | None = None) -> Stage:
    """Fit a line."""

    def step(x: Tensor) -> dict[str, Tensor]:
        return {"squared": (module(x) - 3 * x - 1).square().mean()}

    def batches(seed: int) -> Iterator[Tensor]:
        if seen is not None:
            seen.append(seed)
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield torch.randn(64, 1, generator=generator)

    return Stage("line", module, step, batches, steps, 0.3, average)


def line() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(1, 1)


def test_a_stage_learns_and_stops_after_its_steps(tmp_path: Path) -> None:
    # When
    module = line()
    progress = run(stage(module, steps=300), tmp_path, minutes=5)
    # Then
    assert progress.steps == 300
    assert len(progress.curves["squared"]) == 6
    assert progress.curves["squared"][-1] < 0.01 < progress.curves["squared"][0]
    assert module.weight.item() == pytest.approx(3, abs=0.1)


def test_a_run_resumes_where_the_last_one_ended(tmp_path: Path) -> None:
    # Given a run that ended before the stage was done
    run(stage(line(), steps=100), tmp_path, minutes=5)
    fresh, seen = line(), []
    # When
    progress = run(stage(fresh, steps=300, seen=seen), tmp_path, minutes=5)
    # Then it started with the learned weights, and with other batches than the first run
    assert seen == [100]
    assert progress.steps == 300
    assert len(progress.curves["squared"]) == 6
    assert fresh.weight.item() == pytest.approx(3, abs=0.1)


def test_a_run_that_is_interrupted_keeps_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a run that saves after each step, and is interrupted in the fifth
    monkeypatch.setattr(loop, "SAVE_S", 0)
    one = stage(line(), steps=300)

    def interrupted(seed: int) -> Iterator[Tensor]:
        yield from itertools.islice(one.batches(seed), 4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(replace(one, batches=interrupted), tmp_path, minutes=5)
    # When
    progress = run(replace(one, steps=4), tmp_path, minutes=5)
    # Then nothing was left to do
    assert progress.steps == 4
    assert load_weights(line(), tmp_path / "weights")


def test_a_run_ends_at_its_time_limit(tmp_path: Path) -> None:
    progress = run(stage(line(), steps=10**9), tmp_path, minutes=0.005)
    assert 0 < progress.steps < 10**6
    assert progress.seconds < 10


def test_the_average_of_the_weights_is_saved_next_to_them(tmp_path: Path) -> None:
    # When
    run(stage(line(), steps=300, average=50), tmp_path, minutes=5)
    # Then
    module, average = line(), line()
    assert load_weights(module, tmp_path / "weights")
    assert load_weights(average, tmp_path / "average")
    assert average.weight.item() != module.weight.item()
    assert average.weight.item() == pytest.approx(3, abs=0.2)


def test_weights_are_saved_in_files_of_limited_size(tmp_path: Path) -> None:
    # Given more weights than one file may hold
    module = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(6)))  # 25 MB
    # When
    run(Stage("large", module, lambda x: {"x": module(x).square().mean()}, ones, 1, 0.0), tmp_path, minutes=1)
    # Then
    files = list((tmp_path / "weights").glob("*.safetensors"))
    assert len(files) > 1
    assert max(path.stat().st_size for path in files) < 15 * 2**20


def ones(_: int) -> Iterator[Tensor]:
    while True:
        yield torch.ones(1, 1024)


def test_an_empty_folder_has_no_weights(tmp_path: Path) -> None:
    assert not load_weights(line(), tmp_path)
