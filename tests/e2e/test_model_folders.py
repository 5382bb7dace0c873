"""LONGTAKE_MODEL_FOLDERS: no spec has a worker read elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.client.submit import list_jobs, submit
from tasks.errors import JobFailedError, SpecError
from tasks.settings import Settings
from tasks.spec.model_policy import check_model_folders
from tasks.spec.schema import LoraSpec
from tests.conftest import Worker
from tests.e2e.refusals import SPEC, Command, check_refused


@pytest.fixture
def strict(settings: Settings, tmp_path: Path) -> Settings:
    """A deployment of which specs may name folders in `models` and `more`, and whose own model is elsewhere."""
    for name in ("models/ours", "more", "secret", "models-of-others", "own"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("models/a.safetensors", "secret/b.safetensors", "own/c.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "models" / "b.safetensors").symlink_to(tmp_path / "secret" / "b.safetensors")
    (tmp_path / "models" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "shortcut").symlink_to(tmp_path / "models")
    folders = f"{tmp_path}/shortcut:{tmp_path}/more"
    return settings.model_copy(update={"model_folders": folders, "model": str(tmp_path / "own")})


@pytest.mark.parametrize(
    "model",
    [
        "shapes",
        "tiny",
        "tiny-2.0",
        "owner/name@main",
        "HERE/own",
        "HERE/own/",
        "HERE/more/../own",
        "HERE/models/ours",
        "HERE/more",
        "HERE/secret/../more",
    ],
)
def test_a_model_that_specs_may_name(strict: Settings, tmp_path: Path, model: str) -> None:
    check_model_folders(model.replace("HERE", str(tmp_path)), [], strict)


@pytest.mark.parametrize(
    "model",
    [
        "/",
        "/etc",
        "~",
        ".",
        "./absent",
        "HERE/absent",
        "HERE/secret",
        "HERE/models-of-others",
        "HERE/models/link",
        "HERE/shortcut/link",
        "HERE/models/link/absent",
        "HERE/models/../secret",
        "HERE/more\0/../secret",
        "models/../secret",
        "models/link",
    ],
)
def test_a_model_that_specs_must_not_name(
    strict: Settings, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker whose folder makes some look like hub ids
    monkeypatch.chdir(tmp_path)
    # When / Then
    with pytest.raises(SpecError, match=r"^model: .*LONGTAKE_MODEL_FOLDERS"):
        check_model_folders(model.replace("HERE", str(tmp_path)), [], strict)
    check_model_folders(model, [], strict.model_copy(update={"model_folders": None}))


@pytest.mark.parametrize("path", ["HERE/models/a.safetensors", "HERE/models", "owner/name@v1:b.safetensors"])
def test_a_lora_that_specs_may_name(strict: Settings, tmp_path: Path, path: str) -> None:
    check_model_folders("tiny", [LoraSpec(path=path.replace("HERE", str(tmp_path)))], strict)


@pytest.mark.parametrize(
    "path",
    [
        "HERE/secret/b.safetensors",
        "HERE/models/b.safetensors",
        "HERE/own/c.safetensors",
        "HERE/absent.safetensors",
        "HERE/models/../secret",
        "secret/b.safetensors",
        "~/a.safetensors",
    ],
)
def test_a_lora_that_specs_must_not_name(
    strict: Settings, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker whose folder makes some look like hub ids, and a spec whose first LoRA is one that it may name
    monkeypatch.chdir(tmp_path)
    loras = [LoraSpec(path="owner/name"), LoraSpec(path=path.replace("HERE", str(tmp_path)))]
    # When / Then
    with pytest.raises(SpecError, match=r"^loras\.1\.path: .*LONGTAKE_MODEL_FOLDERS"):
        check_model_folders("tiny", loras, strict)
    check_model_folders("tiny", loras, strict.model_copy(update={"model_folders": None}))


def test_submit_refuses_it(strict: Settings, longtake: Command, tmp_path: Path) -> None:
    # Given
    (tmp_path / "spec.yaml").write_text(f"model: models/link\n{SPEC}")
    # When / Then
    check_refused(longtake("submit", "spec.yaml", settings=strict), "model: ", "LONGTAKE_MODEL_FOLDERS allows")
    assert list(list_jobs(settings=strict)) == []


def test_a_worker_ends_a_job_whose_model_lies_elsewhere(
    strict: Settings, tmp_path: Path, start_worker: Callable[..., Worker]
) -> None:
    # Given jobs of somebody who does not ask
    lax = strict.model_copy(update={"model_folders": None})
    small = {"width": 64, "height": 32, "frames": 17, "segments": [{"prompt": "a"}]}
    bad = submit({**small, "model": str(tmp_path / "models" / "link")}, settings=lax)
    good = submit({**small, "model": str(tmp_path / "models" / "ours")}, settings=lax)
    # When
    start_worker(strict.model_copy(update={"model": "tiny"})).ready()
    # Then the first attempt is the last
    with pytest.raises(JobFailedError, match=r"after 1 attempt: SpecError: model: .*link' is not in a folder"):
        bad.wait()
    good.wait()
