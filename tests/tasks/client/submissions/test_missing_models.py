"""Models and other parts of a spec that are not on the machine that submits it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.client.submit import submit
from tasks.settings import Settings
from tests.tasks.conftest import spec


def test_a_path_with_nothing_there_is_a_warning_and_the_job_is_queued(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    # Given paths that may be misspelt, or of the workers alone
    parts: dict[str, Any] = {"model": "/models/ltx-2.3-distiled", "loras": [{"path": "./film.safetensors"}]}
    # When
    job = submit(spec("a", **parts), settings=settings)
    # Then
    end = "is not on this machine; the job fails unless its workers have it"
    said = [record.message for record in caplog.records]
    assert said == [f"spec: model: /models/ltx-2.3-distiled {end}", f"spec: loras.0.path: ./film.safetensors {end}"]
    assert not job.status().finished


@pytest.mark.parametrize(
    "model", ["tiny", "Lightricks/LTX-2.5-Diffusers@main#full", "owner/name:a.safetensors", "{here}"]
)
def test_names_and_what_is_here_are_no_warning(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture, model: str
) -> None:
    submit(spec("a", model=model.format(here=tmp_path)), settings=settings)
    assert not caplog.records
