"""The weights of LTX-2.5 that are not distilled, next to the distilled ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ltx2.checkpoints.full_weights import split_full
from ltx2.checkpoints.hub.fetching import full_name
from ltx2.checkpoints.reports.check import check_model
from ltx2.checkpoints.resolve import HubModel, resolve_model
from ltx2.engine import Engine
from ltx2.errors import UnsupportedModelError
from ltx2.sampling import Sampling, Shift
from tests.ltx2.checkpoint_files import edit
from tests.ltx2.model.denoising.test_denoiser import calls_of, request_of
from tests.ltx2.outputs import same


def test_the_full_weights_are_rendered_as_those_of_a_repository_of_their_own(
    models: dict[str, Path], tmp_path: Path
) -> None:
    # Given a model whose transformer and scheduler are the ones that are not distilled
    both = models["tiny-2.5"]
    alone = shutil.copytree(both, tmp_path / "alone", ignore=shutil.ignore_patterns("transformer"))
    (alone / "transformer_full").rename(alone / "transformer")
    edit(alone / "scheduler/scheduler_config.json", use_dynamic_shifting=True, shift_terminal=0.1)
    expected = Engine.load(str(alone), device="cpu").run(request_of(Sampling(steps=3)))
    # When
    engine = Engine.load(f"{both}#full", device="cpu")
    with calls_of(engine) as calls:
        output = engine.run(request_of(Sampling(steps=3)))
    # Then
    assert str(engine.variant) == "LTX-2.5"
    assert same(output, expected)
    assert [call["hidden_states"].shape[0] for call in calls] == [2, 1, 1] * 3
    assert same(engine.run(request_of(Sampling(steps=3, distilled=False))), expected)
    assert not same(engine.run(request_of(Sampling(steps=3, shift=Shift.TOKENS))), expected)
    # and LoRAs can be changed in them
    assert engine.set_loras([])


def test_a_name_tells_which_weights(models: dict[str, Path], tmp_path: Path) -> None:
    folder, cache = models["tiny-2.5"], models["tiny-2.5"].parent
    assert resolve_model(f"{folder}#full", tmp_path) == folder
    assert resolve_model("tiny-2.5#full", cache) == folder
    assert resolve_model("owner/name@v1#full", tmp_path) == HubModel("owner/name", "v1", full=True)
    assert full_name(str(folder), tmp_path) == f"{folder}#full" == full_name(f"{folder}#full", tmp_path)
    assert full_name(str(models["tiny"]), tmp_path) == str(models["tiny"])
    # a folder with such a name has that name
    (tmp_path / "model#full").mkdir()
    assert split_full(str(tmp_path / "model#full")) == (str(tmp_path / "model#full"), False)


def test_a_model_without_them_says_so(models: dict[str, Path], tmp_path: Path) -> None:
    for model in (f"{models['tiny']}#full", "tiny#full"):
        with pytest.raises(UnsupportedModelError, match=r"has no transformer_full, which #full names: remove #full"):
            resolve_model(model, models["tiny"].parent)
    # and damaged ones are found before they are loaded
    folder = shutil.copytree(models["tiny-2.5"], tmp_path / "model")
    (folder / "transformer_full/diffusion_pytorch_model.safetensors").unlink()
    assert resolve_model(str(folder), tmp_path) == folder
    report = check_model(f"{folder}#full", tmp_path)
    assert not report.usable
    assert report.missing[0].startswith("transformer: ")
    assert "transformer_full is incomplete" in str(report.problem)


def test_the_check_knows_all_parts(models: dict[str, Path], tmp_path: Path) -> None:
    plain, full = (check_model(f"{models['tiny-2.5']}{end}", tmp_path) for end in ("", "#full"))
    assert (plain.distilled, full.distilled) == (True, False)
    names = [[part.name for part in report.parts] for report in (plain, full)]
    assert names[0][-3:] == ["latent_upsampler", "diffusion_decoder", "transformer_full"]
    assert "transformer_full" in names[1]
    assert "transformer" not in names[1]
    index = json.loads((models["tiny-2.5"] / "model_index.json").read_text())
    assert "transformer_full" not in index
