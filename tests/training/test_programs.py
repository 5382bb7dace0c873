"""The programs of `training/`, each run once with very little work."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from ltx2.checkpoints.resolve import check_folder
from ltx2.engine import Engine
from training import abilities, curves, drift, joins, train
from training.films import render

Run = Callable[..., None]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(program: Callable[[], None], *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        program()

    return run


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # of torch, in mixed precision
def test_every_stage_learns_a_step_and_the_model_is_exported(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    monkeypatch.setattr(train, "_MEASURED", 2)
    little = ("--out", tmp_path, "--steps", 1, "--batch", 2, "--processes", 0, "--pool", 1, "--device", "cpu")
    # When
    for stage in train.STEPS:
        run(train.main, stage, *little)
    run(train.main, "export", "--out", tmp_path)
    # Then
    assert str(check_folder(tmp_path / "model")) == "LTX-2.3, distilled"
    for stage in train.STEPS:
        assert json.loads((tmp_path / stage / "progress.json").read_text())["steps"] == 1


def test_the_transformer_of_a_model_is_trained_further(
    run: Run, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    start = ("--start", untrained, "--out", tmp_path, "--device", "cpu")
    little = ("--steps", 1, "--batch", 2, "--processes", 0, "--pool", 1)
    # When
    run(train.main, "transformer", *start, *little)
    run(train.main, "export", *start)
    # Then nothing else has changed
    for part in ("vae", "audio_vae", "vocoder", "text_encoder", "connectors", "transformer"):
        (old,), (new,) = (sorted((folder / part).glob("*.safetensors")) for folder in (untrained, tmp_path / "model"))
        assert (old.read_bytes() == new.read_bytes()) == (part not in ("connectors", "transformer")), part


def test_only_the_transformer_is_trained_further(run: Run, untrained: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--start is for the stages transformer and export"):
        run(train.main, "vae", "--start", untrained, "--out", tmp_path, "--device", "cpu")


def test_a_stage_names_the_one_that_must_run_before_it(run: Run, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no weights: run `python training/train.py audio`"):
        run(train.main, "vocoder", "--out", tmp_path, "--device", "cpu")


def test_curves_are_printed_and_drawn(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Given
    (tmp_path / "vae").mkdir()
    progress = {"steps": 150, "seconds": 90.0, "curves": {"squared": [1.0, 0.1, 0.01]}}
    (tmp_path / "vae" / "progress.json").write_text(json.dumps(progress))
    # And a stage that has just started
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "progress.json").write_text(json.dumps({"steps": 5, "seconds": 3.0, "curves": {}}))
    # When
    run(curves.main, tmp_path, "-o", tmp_path / "curves.png")
    # Then
    assert capsys.readouterr().out.split() == ["vae", "150", "steps", "1.5", "min", "squared", "0.01000"]
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"


def test_curves_without_a_trained_stage_are_an_error(run: Run, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has no stage that was trained"):
        run(curves.main, tmp_path, "-o", tmp_path / "curves.png")


def test_abilities_are_measured_with_and_without_what_is_given(
    run: Run, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given
    chosen = list(abilities.ABILITIES)[4:6]
    monkeypatch.setattr(abilities, "ABILITIES", {name: abilities.ABILITIES[name] for name in chosen})
    # When
    run(abilities.main, "--model", untrained, "--windows", 2, "--out", tmp_path / "figures.json", "--device", "cpu")
    # Then
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures) == chosen
    assert all(len(values) == 2 for both in figures.values() for values in both.values())
    assert all(name in capsys.readouterr().out for name in chosen[:1])


def test_joins_of_random_worlds_are_measured(
    run: Run, untrained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a film of one world in this process
    monkeypatch.setattr(joins, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    # When
    run(joins.main, "--model", untrained, "--worlds", 1, "--segments", 2)
    # Then
    assert "0 of 0 films" in capsys.readouterr().out


def test_the_conditioning_strength_changes_only_the_continuation(untrained: Path) -> None:
    # Given
    engine = Engine.load(str(untrained), device="cpu")
    # When
    films = []
    for strength in (1.0, 0.5, 1.0):
        with drift.conditioned_at(strength, engine.pipeline):
            films.append(render(engine, ["a red circle moves left over a blue background, silence"] * 2, seed=3))
    # Then only the continuation is different, and the strength is reset afterwards
    first, loose, again = ([piece.tobytes() for piece in film.pieces] for film in films)
    assert first[0] == loose[0]
    assert first[1] != loose[1]
    assert first == again


def test_the_drift_of_a_film_is_measured_and_drawn(
    run: Run, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given
    settings = (drift.Setting(), drift.Setting(shorter=8), drift.Setting(strength=0.5))
    monkeypatch.setattr(drift, "SETTINGS", settings)
    # When
    run(drift.main, "--model", untrained, "--segments", 2, "--films", 1, "--out", tmp_path)
    # Then
    figures = json.loads((tmp_path / "drift.json").read_text())
    assert list(figures) == [
        "9 frames, sound as usual",
        "9 frames, sound 0.32 s less",
        "9 frames at 0.5, sound as usual",
    ]
    assert [len(films[0]["broken"]) for films in figures.values()] == [1, 1, 1]
    assert "joins within bounds" in capsys.readouterr().out
    assert (tmp_path / "drift.png").stat().st_size > 1000
