"""LONGTAKE_MODEL_FOLDERS: a spec cannot make a worker read any other folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.client.submit import list_jobs, submit
from tasks.errors import JobFailedError, SpecError
from tasks.settings import Settings
from tasks.spec.head import LoraSpec
from tasks.spec.loader import check_spec
from tasks.spec.model_policy import check_model_folders
from tasks.worker.engines import EngineSlot
from tests.conftest import Worker
from tests.e2e.refusals import SPEC, Command, check_refused


@pytest.fixture
def restricted(settings: Settings, tmp_path: Path) -> Settings:
    """Specs may name folders in `models` and `more`; the deployment's model is in `own`."""
    for name in ("models/ours", "models/linked/vae", "more", "secret", "models-of-others", "own"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("models/a.safetensors", "secret/b.safetensors", "own/c.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "models" / "b.safetensors").symlink_to(tmp_path / "secret" / "b.safetensors")
    (tmp_path / "models" / "linked" / "vae" / "a.safetensors").symlink_to(tmp_path / "secret" / "b.safetensors")
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
        "tiny-2.5",
        "tiny-2.5#full",
        "owner/name#full",
        "HERE/own#full",
        "HERE/more#full",
        "owner/name@main",
        "HERE/own",
        "HERE/own/",
        "HERE/more/../own",
        "HERE/models/ours",
        "HERE/more",
        "HERE/secret/../more",
    ],
)
def test_a_model_that_specs_may_name(
    restricted: Settings, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker whose working directory was deleted
    (tmp_path / "deleted").mkdir()
    monkeypatch.chdir(tmp_path / "deleted")
    (tmp_path / "deleted").rmdir()
    # When / Then
    check_model_folders(model.replace("HERE", str(tmp_path)), [], restricted)


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
        "models/link#full",
        "HERE/secret#full",
        "owner/name@HERE/secret",
        "owner/name@../secret",
        "owner/name@v1/../../secret",
        "owner/name@v1/.hidden",
        "owner/name@",
        "owner/name@v1:/etc/a.safetensors",
        "owner/name/more",
        "HERE/models/linked",
    ],
)
def test_a_model_that_specs_must_not_name(
    restricted: Settings, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a working directory in which some of these look like hub ids
    monkeypatch.chdir(tmp_path)
    # When / Then
    with pytest.raises(SpecError, match=r"^model: .*LONGTAKE_MODEL_FOLDERS"):
        check_model_folders(model.replace("HERE", str(tmp_path)), [], restricted)
    check_model_folders(model, [], restricted.model_copy(update={"model_folders": None}))


@pytest.mark.parametrize(
    "path", ["HERE/models/a.safetensors", "HERE/models/ours", "owner/name@refs/pr/1:x/b.safetensors"]
)
def test_a_lora_that_specs_may_name(restricted: Settings, tmp_path: Path, path: str) -> None:
    check_model_folders("tiny", [LoraSpec(path=path.replace("HERE", str(tmp_path)))], restricted)


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
        "owner/name:HERE/secret/b.safetensors",
        "owner/name@v1:../b.safetensors",
        "owner/name@HERE/secret:b.safetensors",
        "HERE/models/linked",
    ],
)
def test_a_lora_that_specs_must_not_name(
    restricted: Settings, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a working directory in which some of these look like hub ids, and a spec whose first LoRA is allowed
    monkeypatch.chdir(tmp_path)
    loras = [LoraSpec(path="owner/name"), LoraSpec(path=path.replace("HERE", str(tmp_path)))]
    # When / Then
    with pytest.raises(SpecError, match=r"^loras\.1\.path: .*LONGTAKE_MODEL_FOLDERS"):
        check_model_folders("tiny", loras, restricted)
    check_model_folders("tiny", loras, restricted.model_copy(update={"model_folders": None}))


@pytest.mark.parametrize("key", ["upsampler", "stage2_lora"])
def test_what_else_a_spec_names_is_held_to_the_same_folders(
    restricted: Settings, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    monkeypatch.chdir(tmp_path)
    two = {"stages": 2, "width": 64, "height": 64, "segments": [{"prompt": "a"}]}
    for path in ("HERE/secret/b.safetensors", "HERE/models/b.safetensors", "models/link", "/etc", "~", "./absent"):
        head = check_spec({**two, key: path.replace("HERE", str(tmp_path))})
        # When / Then both the client and the worker refuse it
        field = next(iter(head.more_files))
        with pytest.raises(SpecError, match=rf"^(spec: )?{re.escape(field)}: .*LONGTAKE_MODEL_FOLDERS"):
            submit(head, settings=restricted)
        with pytest.raises(SpecError, match=rf"^(spec: )?{re.escape(field)}: .*LONGTAKE_MODEL_FOLDERS"):
            EngineSlot(restricted).engine("tiny", (), head.more_files)
    for path in ("HERE/models/a.safetensors", "HERE/more", "owner/name@v1:a.safetensors"):
        head = check_spec({**two, key: path.replace("HERE", str(tmp_path))})
        check_model_folders("tiny", [], restricted, head.more_files)


def test_submit_refuses_a_model_elsewhere(restricted: Settings, longtake: Command, tmp_path: Path) -> None:
    # Given
    (tmp_path / "spec.yaml").write_text(f"model: models/link\n{SPEC}")
    # When / Then
    check_refused(
        longtake("submit", "spec.yaml", settings=restricted), "spec.yaml:1: model: ", "LONGTAKE_MODEL_FOLDERS allows"
    )
    assert list(list_jobs(settings=restricted)) == []


def test_a_worker_fails_a_job_whose_model_is_elsewhere(
    restricted: Settings, tmp_path: Path, start_worker: Callable[..., Worker]
) -> None:
    # Given jobs of a client that does not check
    unrestricted = restricted.model_copy(update={"model_folders": None})
    small = {"width": 64, "height": 32, "frames": 17, "segments": [{"prompt": "a"}]}
    bad = submit({**small, "model": str(tmp_path / "models" / "link")}, settings=unrestricted)
    good = submit({**small, "model": str(tmp_path / "models" / "ours")}, settings=unrestricted)
    # When
    start_worker(restricted.model_copy(update={"model": "tiny"})).ready()
    # Then the job fails after one attempt
    with pytest.raises(JobFailedError, match=r"after 1 attempt: SpecError: model: .*link' is not in a folder"):
        bad.wait()
    good.wait()
