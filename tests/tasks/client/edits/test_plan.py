"""What a changed spec needs: pure comparisons with a job, whatever its state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tasks.client.edits.plan import EditKind, EditPlan, JobNow, plan_edit
from tasks.jobs.units import JobState
from tasks.spec.loader import check_spec


def film(*prompts: str, **changes: Any) -> dict[str, Any]:
    return {"model": "tiny", "segments": [{"prompt": prompt} for prompt in prompts], **changes}


def now(
    committed: int, *, claimed: bool = False, state: str = "running", prompts: str = "abcd", **changes: Any
) -> JobNow:
    spec = check_spec(film(*prompts, **changes))
    return JobNow("j", spec.head, spec.segments, committed, committed + claimed, JobState(state))


def plan(job: JobNow, *prompts: str, **changes: Any) -> EditPlan:
    return plan_edit(job, check_spec(film(*prompts, **changes)))


@pytest.mark.parametrize(
    ("job", "prompts", "kind", "kept", "changed"),
    [
        (now(4, state="done"), "abcd", EditKind.NOTHING, 4, []),
        (now(2), "abcd", EditKind.NOTHING, 2, []),
        (now(4, state="done"), "abcdef", EditKind.IN_PLACE, 4, []),
        (now(2), "abcdef", EditKind.IN_PLACE, 2, []),
        (now(2), "abXd", EditKind.IN_PLACE, 2, [2]),
        (now(2, claimed=True), "abcXe", EditKind.IN_PLACE, 2, [3]),
        (now(2, claimed=True), "abXd", EditKind.FORK, 2, [2]),
        (now(3), "aXcY", EditKind.FORK, 1, [1, 3]),
        (now(4, state="done"), "abcX", EditKind.FORK, 3, [3]),
        (now(4, state="done"), "Xbcd", EditKind.NEW_JOB, 0, [0]),
        (now(0, state="queued"), "Xbcd", EditKind.IN_PLACE, 0, [0]),
        (now(0, claimed=True), "Xbcd", EditKind.NEW_JOB, 0, [0]),
        (now(2, state="failed"), "abXd", EditKind.FORK, 2, [2]),
        (now(2, state="cancelled"), "abcde", EditKind.FORK, 2, []),
        (now(0, state="cancelled"), "abcde", EditKind.NEW_JOB, 0, []),
        (now(4, state="done"), "abc", EditKind.FORK, 3, []),
        (now(2, state="paused"), "abc", EditKind.FORK, 2, []),
        (now(0, prompts="", open=True, segments="open"), "ab", EditKind.IN_PLACE, 0, []),
        (now(1, prompts="a", state="awaiting approval"), "ab", EditKind.IN_PLACE, 1, []),
        (now(1, prompts="a", state="open"), "ab", EditKind.IN_PLACE, 1, []),
    ],
)
def test_a_changed_spec_needs(job: JobNow, prompts: str, kind: EditKind, kept: int, changed: list[int]) -> None:
    found = plan(job, *prompts)
    assert (found.kind, found.kept, list(found.changed)) == (kind, kept, changed)


def test_a_length_that_a_worker_decided_is_no_change() -> None:
    # Given a job with frames: auto, of whose lengths one is decided
    auto = {"model": "tiny-2.5", "frames": "auto"}
    job = now(1, prompts="ab", **auto)
    decided = job.segments[0].model_copy(update={"frames": 65})
    job = replace(job, segments=[decided, job.segments[1]])
    # When / Then
    assert plan(job, "a", "b", **auto).kind == EditKind.NOTHING
    assert list(plan(job, "a", "c", **auto).changed) == [1]
    assert plan(job, "a", "b", model="tiny-2.5").changed == {0: ["auto_frames"], 1: ["auto_frames"]}


@pytest.mark.parametrize("changes", [{"width": 96}, {"steps": 9}, {"negative_prompt": "rain"}, {"fps": 25}])
def test_a_change_of_what_all_segments_share_keeps_nothing(changes: dict[str, Any]) -> None:
    found = plan(now(2), *"abcd", **changes)
    assert (found.kind, found.kept, list(found.head)) == (EditKind.NEW_JOB, 0, list(changes))
    assert next(iter(found.lines())).startswith(f"{next(iter(changes))}: ")


def test_title_open_and_approve_change_no_segment() -> None:
    found = plan(now(4), *"abcd", title="another", open=True, approve=True)
    assert found.kind == EditKind.NOTHING


def test_seeds_count_and_not_how_they_are_written() -> None:
    # Given a job whose seeds follow from its own
    job = now(2, seed=5)
    # Then another seed of the job changes every segment that has none of its own
    assert list(plan(job, *"abcd", seed=6).changed) == [0, 1, 2, 3]
    # And the same seeds, written out, change none
    same = film(*"abcd", seed=90)
    same["segments"] = [{**segment, "seed": 5 + i} for i, segment in enumerate(same["segments"])]
    assert plan_edit(job, check_spec(same)).kind == EditKind.NOTHING
    same["segments"][3]["transition"] = "cut"
    assert plan_edit(job, check_spec(same)).changed == {3: ["transition"]}


@pytest.mark.parametrize(
    ("job", "prompts", "lines"),
    [
        (now(4, state="done"), "abcd", ["segments 0 to 3 of job j: kept", "nothing is rendered: job j has this spec"]),
        (
            now(4, state="done"),
            "aXcdef",
            [
                "segment 0 of job j: kept",
                "segment 1: prompt changed, rendered again",
                "segments 2 to 3: rendered again, because what comes before changes",
                "segments 4 to 5: new",
                "a new job: a fork of job j after segment 0",
            ],
        ),
        (
            now(1),
            "abXde",
            [
                "segment 0 of job j: kept",
                "segment 2: prompt changed, not rendered yet",
                "segment 4: new",
                "in place: job j goes on",
            ],
        ),
        (
            now(4, state="done"),
            "abc",
            ["segments 0 to 2 of job j: kept", "segment 3: removed", "a new job: a fork of job j after segment 2"],
        ),
    ],
)
def test_a_plan_says_what_is_kept_and_what_is_rendered_again(job: JobNow, prompts: str, lines: list[str]) -> None:
    assert list(plan(job, *prompts).lines()) == lines
