"""How well segments join, over HTTP: the figures of `longtake report`."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest

from tasks.client.job import Job
from tests.conftest import Worker
from tests.tasks.conftest import spec
from tests.tasks.server.conftest import Server
from tests.tasks.server.exchanges import error_of, finished, submitted

SOUND = ("loudness_step", "usual_loudness_step", "click", "usual_click")


def test_joins_have_the_figures_of_a_report(
    client: httpx2.Client, worker: Worker, server: Server, tmp_path: Path
) -> None:
    # Given a film with a continuation, a cut and a dissolve, and its report
    wanted = spec("striped", "a", "striped", "b", frames=25)
    wanted["segments"][2]["transition"] = "cut"
    wanted["segments"][3] |= {"transition": "fade", "fade": 0.25}
    job_id = submitted(client, wanted)
    finished(client, job_id)
    with Job(job_id, settings=server.settings) as job:
        job.write_report(tmp_path)
    report = json.loads((tmp_path / "seams.json").read_text())
    # Then the server has the same, with its pictures, and measures it once
    assert client.get(f"/jobs/{job_id}/report").json() == report
    for name in ("seams.png", "sheet.png"):
        assert client.get(f"/jobs/{job_id}/report/{name}").content == (tmp_path / name).read_bytes()
    tag = client.get(f"/jobs/{job_id}/report").headers["etag"]
    assert client.get(f"/jobs/{job_id}/report", headers={"If-None-Match": tag}).status_code == 304
    assert client.get(f"/jobs/{job_id}/report/other.png").status_code == 400
    for seam in report["seams"]:
        # When
        answer = client.get(f"/jobs/{job_id}/segments/{seam['segment']}/join")
        join = answer.json()
        assert answer.status_code == 200, answer.text
        # Then each join has the same figures, but for what AAC does to sound
        for name in ("segment", "cut"):
            assert join[name] == seam[name]
        for name in ("change", "usual_change", "largest_change"):
            assert join[name] == pytest.approx(seam[name], abs=0.01), (seam["segment"], name)
        for name in SOUND:
            assert join[name] == pytest.approx(seam["sound"][name], abs=0.5), (seam["segment"], name)
        said = [text.partition(": ")[2] for text in report["broken"] if text.startswith(f"segment {seam['segment']}:")]
        assert set(join["wrong"]) <= set(said)
    # And the first segment has none
    assert error_of(client.get(f"/jobs/{job_id}/segments/0/join"))[0] == 409
    # When a segment is retaken, Then its takes have figures, too
    number = client.post(f"/jobs/{job_id}/segments/1/takes", json={"prompt": "striped"}).json()["takes"][0]
    finished(client, job_id)
    first, other = (client.get(f"/jobs/{job_id}/segments/1/takes/{take}/join").json() for take in (0, number))
    assert first == client.get(f"/jobs/{job_id}/segments/1/join").json()
    assert other["change"] != first["change"]
