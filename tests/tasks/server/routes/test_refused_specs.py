"""Specs that `POST /jobs` refuses, above all those that name a file of the server."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.tasks.conftest import spec
from tests.tasks.server.conftest import Server
from tests.tasks.server.exchanges import NAMES_A_FILE, ONLY_THESE, error_of, submitted

BAD_SPECS: list[tuple[dict[str, Any], str]] = [
    ({"segments": []}, "segments: must have at least one"),
    (spec("a", height=31), "height: "),
    (spec("a", model="/etc/passwd"), "model: 'passwd' is not a name that this server knows"),
    (spec("a", model="Lightricks/LTX-2"), "model: 'Lightricks/LTX-2' is not a name"),
    (spec("a", model=7), "model: 7 is not a name"),
    (spec("a", loras=["/models/style.safetensors"]), "this server has none"),
    (spec("a", loras=[{"path": "../style", "weight": 1}]), "loras.0.path"),
    (spec("a", stage2_lora="/models/style.safetensors", stages=2), "stage2_lora"),
    (spec("a", text_encoder="/models/gemma"), "text_encoder"),
    (spec("a", upsampler="/models/up", stages=2), "upsampler"),
    (spec("a", image="/etc/passwd"), "image: must be an upload or a base64 data: URL"),
    (spec("a", image="https://example.com/a.png"), "image: must be an upload or a base64 data: URL"),
    (spec("a", image=["/etc/passwd"]), "image: "),
    (spec("a", extend="/etc/passwd"), "extend: must be an upload or a base64 data: URL"),
    (spec("a", audio="/etc/passwd"), "audio: must be an upload or a base64 data: URL"),
    *(({**spec("a"), **fields}, f"{place}: {ONLY_THESE}") for place, fields in NAMES_A_FILE.items()),
    (spec("a", image="data:image/png;base64,???"), "image: its base64 is damaged"),
    (spec("a", image="data:image/png;base64,AAAA"), "image: "),
    (spec("a", overlap=8), "overlap: 8 is not"),
]


@pytest.mark.parametrize("place", [place for place, fields in NAMES_A_FILE.items() if "segments" in fields])
def test_an_appended_segment_that_names_a_file_is_refused(client: httpx2.Client, place: str) -> None:
    job_id = submitted(client, spec("a"))
    found = error_of(client.post(f"/jobs/{job_id}/segments", json=NAMES_A_FILE[place]))
    assert found[0] == 400
    assert f"{place}: {ONLY_THESE}" in found[1]
    assert client.get(f"/jobs/{job_id}").json()["segments"] == 1
    client.post(f"/jobs/{job_id}/cancel")


@pytest.mark.parametrize(("body", "words"), BAD_SPECS)
def test_bad_specs_are_refused_without_a_path_of_the_server(
    client: httpx2.Client, body: dict[str, Any], words: str
) -> None:
    answer = client.post("/jobs", json=body)
    status, message = error_of(answer)
    assert status == 400
    assert answer.json()["error"]["param"]
    assert words in message
    assert "/tmp" not in message


def test_what_is_no_spec_is_refused(client: httpx2.Client, server: Server) -> None:
    assert error_of(client.post("/jobs", content=b'{"segments": ['))[0] == 400
    assert "spec:2:" in error_of(client.post("/jobs", content=b'{\n"title": 1,,\n}'))[1]
    assert error_of(client.post("/jobs", content=b"\xff\xfe"))[0] == 400
    assert error_of(client.post("/jobs", data={"x": "y"}, files={"image": b"x"})) == (
        400,
        "spec: missing; it is the job's spec as JSON",
    )
    assert error_of(client.post("/jobs", content=b"x" * (server.settings.server_body_bytes + 1)))[0] == 413
    # Nor is an upload that is none; the field is named once
    for name in ("image", "extend", "audio"):
        answer = client.post("/jobs", data={"spec": json.dumps(spec("a"))}, files={name: b"garbage"})
        assert (error_of(answer)[0], answer.json()["error"]["param"]) == (400, name)
        assert error_of(answer)[1].count(f"{name}:") == 1
    # And a body whose size is not declared is read up to the limit
    pieces = (b"x" * 1024 * 1024 for _ in range(9))
    assert error_of(client.post("/jobs", content=pieces))[0] == 413
