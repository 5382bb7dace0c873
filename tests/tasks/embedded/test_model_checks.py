"""What is refused before a render, by the model's configs and by the settings of its device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ltx2.errors import RequestError
from tasks.embedded.model_checks import check_device, check_sampling
from tasks.errors import ConfigError
from tasks.settings import Settings
from tasks.spec.schema import JobSpec
from tests.conftest import STAND_IN
from tests.tasks.conftest import spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 20, "guidance": {"cfg": 3}}, "^steps is 20; .*; and guidance is 3 for the picture"),
        (
            {"stages": 2},
            "^stages is 2, but shapes has no latent_upsampler: it renders in one stage; for two, use",
        ),
        ({"segments": [{"prompt": "a"}, {"prompt": "b", "steps": 20}]}, "segments.*1.*: steps is 20; LTX-2.3"),
    ],
)
def test_what_the_model_cannot_render(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    wanted = JobSpec.model_validate(spec("a", width=64, height=64) | {"model": "shapes"} | changes)
    with pytest.raises(RequestError, match=message):
        check_sampling(wanted, Settings(home=tmp_path))
    # Engines of other modules, and models that are not here, are not judged
    check_sampling(wanted, Settings(home=tmp_path, engine=STAND_IN))
    check_sampling(wanted.model_copy(update={"model": "owner/name"}), Settings(home=tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus": "3"}, "^LONGTAKE_GPUS: gpus is 3, but this machine has no GPU"),
        ({"attention": "fp8"}, "^LONGTAKE_ATTENTION: attention is fp8, which needs a GPU"),
        ({"precision": "fp8"}, "^LONGTAKE_PRECISION: precision is fp8, which needs a GPU"),
        ({"device": "cuda"}, "^LONGTAKE_DEVICE: device is 'cuda', but torch .* finds no CUDA device"),
    ],
)
def test_settings_that_need_a_gpu(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], message: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=message):
        check_device(Settings(**changes))  # type: ignore[arg-type]
    check_device(Settings(engine=STAND_IN, **changes))  # type: ignore[arg-type]
    check_device(Settings(gpus="3", device="cpu"))
