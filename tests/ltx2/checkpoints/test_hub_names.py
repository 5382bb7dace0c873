"""Names of repositories on the hub, with a revision and a file, and what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx2.checkpoints.hub_names import HubName, parse_hub_name
from ltx2.checkpoints.loras.lora import resolve_lora
from ltx2.checkpoints.resolve import resolve_model
from ltx2.errors import CheckpointError


@pytest.mark.parametrize(
    "name",
    [
        *("a/b@/etc", "a/b@../x", "a/b@x/../../y", "a/b@.x", "a/b@x/", "a/b@", "a/b@v 1", "a/b@v1\n", "a/b@\u0661"),
        *("a/b:/etc/x.safetensors", "a/b:../x.safetensors", "a/b@v1:x//y.safetensors"),
        *("/a/b", "~/a", "a/.b", "../b", "a/b/c", "a"),
    ],
)
def test_a_path_is_not_a_name_on_the_hub(name: str, tmp_path: Path) -> None:
    assert parse_hub_name(name) is None
    with pytest.raises(CheckpointError, match="no such model folder"):
        resolve_model(name, tmp_path)
    with pytest.raises(CheckpointError, match="no such LoRA"):
        resolve_lora(name)


def test_a_name_on_the_hub_has_a_revision_and_a_file() -> None:
    assert parse_hub_name("a/b") == HubName("a/b")
    assert parse_hub_name("a-1/b.c_d@refs/pr/1:x/y.safetensors") == HubName("a-1/b.c_d", "refs/pr/1", "x/y.safetensors")
