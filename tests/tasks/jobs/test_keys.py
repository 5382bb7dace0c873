"""Rejection of invalid job ids by the API; for messages see test_message_filter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis
import torch
from safetensors.torch import save_file

from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.embedded.inputs import inputs_of
from tasks.errors import JobNotFoundError
from tasks.settings import Settings
from tasks.spec.loader import check_spec
from tests.tasks.conftest import spec

HOSTILE = ["", "../../x", "A", "a:b", "a" * 41, "a\n", "*", "a b", "-o", "a\0", "\u0430", None, 7, ["a"]]


@pytest.mark.parametrize("job_id", HOSTILE, ids=ascii)
def test_api_rejects_invalid_job_ids(settings: Settings, job_id: str) -> None:
    with pytest.raises(JobNotFoundError, match="is not a job id"):
        Job(job_id, settings=settings)
    if job_id:  # "" and None mean a new id
        with pytest.raises(JobNotFoundError, match="is not a job id"):
            submit(spec("a"), settings=settings, job_id=job_id)
    assert redis.Redis.from_url(settings.redis_url).keys("*") == []


def test_render_ids_are_hashes() -> None:
    hostile = check_spec({"model": "../../x", "title": "../../x", "segments": [{"prompt": "../../x"}]})
    assert re.fullmatch("[0-9a-f]{16}", inputs_of(hostile, {"kind": "../../x"}, Settings()).job_id)


def test_render_id_depends_on_the_bytes_of_a_lora(tmp_path: Path) -> None:
    # Given
    file = tmp_path / "rain.safetensors"
    save_file(
        {"transformer.a.lora_A.weight": torch.zeros(1, 2), "transformer.a.lora_B.weight": torch.zeros(2, 1)}, file
    )
    job = check_spec(spec("a", loras=[{"path": str(file)}]))
    before = inputs_of(job, None, Settings()).job_id
    assert inputs_of(job, None, Settings()).job_id == before
    # When
    save_file(
        {"transformer.a.lora_A.weight": torch.zeros(2, 2), "transformer.a.lora_B.weight": torch.zeros(2, 2)}, file
    )
    # Then
    assert inputs_of(job, None, Settings()).job_id != before
