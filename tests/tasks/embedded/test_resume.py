"""What a render keeps of an earlier one to the same film, on a real Redis without a worker."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.client.job import Job
from tasks.embedded.inputs import NOTE, Note, RenderInputs, device_kind, inputs_of
from tasks.embedded.kept_renders import delete_renders, expired_renders, kept_renders
from tasks.embedded.locks import locked
from tasks.embedded.resume import start_or_resume
from tasks.jobs.results import Claim
from tasks.jobs.store import JobStore
from tasks.jobs.units import UnitKind, WorkUnit
from tasks.settings import Settings
from tasks.spec.loader import check_spec
from tasks.spec.schema import JobSpec
from tests.tasks.conftest import spec
from tests.tasks.jobs.protocol import handoff

Start = Callable[..., "tuple[Job, str | None]"]


def film_spec(*prompts: str, **changes: Any) -> JobSpec:
    return check_spec(spec(*prompts, **{"model": "shapes", **changes}))


def own_values(index: int, **values: Any) -> JobSpec:
    """The film of four segments, of which one has values of its own."""
    wanted = spec("a", "b", "c", "d", model="shapes")
    wanted["segments"][index] |= values
    return check_spec(wanted)


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Start:
    """Start or resume a render to the same film; returns its job and what it says."""

    def run(wanted: JobSpec, *, state: dict[str, Any] | None = None, **made_with: Any) -> tuple[Job, str | None]:
        plain = inputs_of(wanted, state, settings)
        inputs = RenderInputs(wanted, state, {**plain.made_with, **made_with})
        return start_or_resume(wanted, inputs, folder=tmp_path, film=tmp_path / "film.mp4", settings=settings)

    return run


def render(jobs: JobStore, job: Job, count: int) -> None:
    """Commit so many more segments of a job."""
    for index in range(job.status().committed, job.status().committed + count):
        [ticket] = [need.ticket for need in jobs.survey(job.id) if need.unit == WorkUnit.segment(index)]
        claim = jobs.claim(job.id, WorkUnit.segment(index), ticket, "w")
        assert isinstance(claim, Claim)
        assert jobs.commit_segment(claim, handoff(index, seed=claim.head.seed + index, worker=f"{job.id} {index}"))


@pytest.mark.parametrize(
    ("changed", "kept", "words"),
    [
        (film_spec("a", "b", "c", "d", title="dusk"), 3, "the title changed"),
        (film_spec("a", "b", "c", "d", "e"), 3, "segment 4 is new"),
        (film_spec("a", "b", "c"), 3, "segment 3 was removed"),
        (film_spec("a", "b"), 2, "segment 2 was removed"),
        (film_spec("a", "b", "c", "x"), 3, "segment 3's prompt changed"),
        (film_spec("a", "x", "c", "d", title="dusk"), 1, "segment 1's prompt changed"),
        (film_spec("x", "b", "c", "d"), 0, "segment 0's prompt changed"),
        (film_spec("a", "b", "c", "d", seed=4), 0, "segment 0's seed changed"),
        (own_values(1, steps=9), 1, "segment 1's steps changed"),
        (own_values(2, frames=25), 2, "segment 2's frames changed"),
        (own_values(2, overlap=1), 1, "segment 1's tail for the next one changed"),
        (own_values(2, overlap=1, transition="cut", repeat=2), 2, "segment 2's transition changed"),
        (film_spec("a", "b", "c", "d", width=96), 0, "width changed from 64 to 96"),
        (film_spec("a", "b", "c", "d", guidance={"cfg": 2}), 0, "guidance changed"),
        (film_spec("a", "b", "c", "d", negative_prompt="\x1b[2J"), 0, "negative_prompt changed"),
        (film_spec("a", "b", "c", "d", model="tiny"), 0, "model changed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_render_keeps_the_segments_whose_inputs_are_unchanged(
    jobs: JobStore, start: Start, changed: JobSpec, kept: int, words: str
) -> None:
    # Given a render that was interrupted after three of four segments
    first, line = start(film_spec("a", "b", "c", "d"))
    assert line is None
    render(jobs, first, 3)
    # When
    job, line = start(changed)
    # Then it says what it keeps, and goes on after that
    count = len(changed.segments)
    assert line == f"keeping {kept} of {count} segments; {words}"
    assert (job.status().title, job.status().segments, job.status().committed) == (changed.title, count, kept)
    assert [one.worker for one in jobs.handoffs(job.id)] == [f"{first.id} {index}" for index in range(kept)]
    assert jobs.prompts(job.id) == {index: segment.prompt for index, segment in enumerate(changed.segments)}
    assert jobs.active() == [job.id]


@pytest.mark.parametrize(
    ("made_with", "words"),
    [
        ({"torch": "2.99"}, "torch changed from "),
        ({"LONGTAKE_PRECISION": "fp8"}, "LONGTAKE_PRECISION changed from auto to fp8"),
        ({"the device": "another GPU"}, "the device changed from "),
        ({"LoRA 'rain'": [1, 2]}, "LoRA 'rain' changed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_render_keeps_nothing_that_was_made_otherwise(
    jobs: JobStore, start: Start, made_with: dict[str, Any], words: str
) -> None:
    # Given
    wanted = film_spec("a", "b")
    first, _ = start(wanted)
    render(jobs, first, 1)
    # When / Then
    job, line = start(wanted, **made_with)
    assert str(line).startswith(f"keeping 0 of 2 segments; {words}")
    assert (job.id == first.id, job.status().committed) == (False, 0)
    # When it is made as before again, Then nothing was lost
    assert start(wanted)[1] == "resuming: 1 of 2 segments already rendered"


def test_a_render_resumes_the_job_of_which_most_can_be_kept(jobs: JobStore, start: Start, tmp_path: Path) -> None:
    # Given two renders to the same film, of which the second got further
    first, _ = start(film_spec("a", "b", "c", "d"))
    render(jobs, first, 1)
    second, _ = start(film_spec("a", "b", "c", "x"))
    render(jobs, second, 2)
    # When the first spec is rendered again, Then it goes on from the second
    again, line = start(film_spec("a", "b", "c", "d"))
    assert (again.id, line) == (first.id, "keeping 3 of 4 segments; segment 3's prompt changed")
    assert again.status().committed == 3
    assert str(second.status().state) == "cancelled"
    # When the second is, Then it resumes as it was left
    resumed, line = start(film_spec("a", "b", "c", "x"))
    assert (resumed.id, line) == (second.id, "resuming: 3 of 4 segments already rendered")
    assert jobs.active() == [second.id]
    # When the note about the folder is damaged, Then the same spec still resumes
    (tmp_path / NOTE).write_text("{")
    assert start(film_spec("a", "b", "c", "x"))[1] == "resuming: 3 of 4 segments already rendered"


def test_a_film_whose_segments_are_all_kept_is_only_joined(jobs: JobStore, start: Start) -> None:
    first, _ = start(film_spec("a", "b"))
    render(jobs, first, 2)
    # When
    job, line = start(film_spec("a", "b", title="dusk"))
    # Then only clips are due
    assert line == "keeping 2 of 2 segments; the title changed"
    assert {need.unit.kind for need in jobs.survey(job.id)} == {UnitKind.CLIP}


def test_the_device_kind(tmp_path: Path) -> None:
    # Given hosts without a GPU, with one kind, and with two
    cards = {"one": ["NVIDIA H200", "NVIDIA H200"], "two": ["NVIDIA H200", "NVIDIA L4"], "none": []}
    for host, names in cards.items():
        for number, name in enumerate(names):
            (tmp_path / host / str(number)).mkdir(parents=True)
            (tmp_path / host / str(number) / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t 1\n")

    def kind(host: str, device: str = "auto", **environ: str) -> str:
        return device_kind(device, gpus=tmp_path / host, environ=environ)

    # Then which of several equal GPUs renders does not count
    assert kind("one") == kind("one", "cuda:1", CUDA_VISIBLE_DEVICES="1") == "NVIDIA H200"
    assert kind("none") == kind("one", "cpu") == kind("one", CUDA_VISIBLE_DEVICES="")
    assert len({kind("two", "cuda:0"), kind("two", "cuda:1"), kind("two", CUDA_VISIBLE_DEVICES="1"), kind("none")}) == 4


def test_a_render_keeps_nothing_that_changed_files_rendered(jobs: JobStore, start: Start, tmp_path: Path) -> None:
    # Given a model, a text encoder and an upsampler on this machine, and a render with them
    files = {"model": "model/vae/weights", "text encoder": "encoder.safetensors", "upsampler": "upsampler/config.json"}
    for name in files.values():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12")
        os.utime(tmp_path / name, ns=(1, 1))
    parts = {"model": "model", "text_encoder": "encoder.safetensors", "upsampler": "upsampler"}
    wanted = film_spec("a", "b", height=64, stages=2, **{key: str(tmp_path / name) for key, name in parts.items()})
    render(jobs, start(wanted)[0], 1)
    for part, name in files.items():
        # When a file is replaced by one of the same size, Then nothing is kept
        os.utime(tmp_path / name, ns=(2, 2))
        assert start(wanted)[1] == f"keeping 0 of 2 segments; the {part}'s files changed"
        # When it is the old one again, Then nothing was lost
        os.utime(tmp_path / name, ns=(1, 1))
        assert start(wanted)[1] == "resuming: 1 of 2 segments already rendered"


def test_which_finished_renders_expire(settings: Settings, tmp_path: Path) -> None:
    # Given renders of 1000 bytes and a note: one unfinished, four finished one after the other
    limited = settings.model_copy(update={"home": tmp_path, "retention_s": 100.0, "renders_budget_bytes": 2999})
    for number, finished_at in enumerate((None, 10.0, 120.0, 130.0, 140.0)):
        folder = tmp_path / "renders" / str(number)
        folder.mkdir(parents=True)
        Note(f"film{number}.mp4", {}, finished_at).write(folder)
        (folder / "data").write_bytes(bytes(1000 - (folder / NOTE).stat().st_size))
    # When / Then the oldest is too old, the next has no room, and the unfinished one counts for nothing
    assert [render.folder.name for render in expired_renders(limited, now=150.0)] == ["2", "1"]
    assert str(kept_renders(limited)[0]) == f"unfinished render of film0.mp4: {tmp_path / 'renders' / '0'}"
    # When one is in use, Then it stays
    with locked(tmp_path / "renders" / "2" / "lock", "it", folder=tmp_path):
        assert [render.folder.name for render in delete_renders(expired_renders(limited, now=150.0))] == ["1"]
    assert sorted(path.name for path in (tmp_path / "renders").iterdir()) == ["0", "2", "3", "4"]
    # When a note is damaged, Then its render counts as unfinished
    (tmp_path / "renders" / "3" / NOTE).write_text('{"film": "x", "jobs": {}, "finished_at": "soon"}')
    assert [render.finished_at for render in kept_renders(limited)] == [None, 120.0, None, 140.0]
