"""Records that are damaged: one job is flagged or failed, and the others are not affected."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import msgpack
import pytest
import redis

from ltx2.timeline import PlannedSegment, SegmentShape, first_timing
from tasks.errors import RecordError
from tasks.jobs.keys import job_keys
from tasks.jobs.records import ClipRecord, FilmRecord, Handoff
from tasks.jobs.state_wire import handoff_blobs
from tasks.jobs.store import JobStore
from tasks.jobs.timing import film_source, shown_timing, timing_after
from tasks.jobs.units import WorkUnit
from tests.tasks.jobs.protocol import JOB, claim, commit, create

OTHER = "bbbb2222"
HANDOFF = Handoff(index=0, state={"kind": "ltx2.v1", "payload": {}}, latents="blob", made_with={"precision": "bf16"})
CLIP = ClipRecord(index=0, blob_id="blob", frames=17, size=1000)
FILM = FilmRecord("blob", 1000, "00", 64, 32, "24", 17, 0.7, 24000, 17000)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("film", b"\xc1garbage"),
        ("film", b"\x80"),
        ("state", b"melted"),
        ("title", b"\xff\xfe"),
        ("segments", b"many"),
        ("cursor", None),
        ("progress", b"[1]"),
        ("progress", b"{"),
        ("progress", b'["a", 1, 2, 3]'),
        ("progress", b"[0, 1, 1e999, 3]"),
        ("created_at", b"9" * 400),
        ("started_at", b"-1"),
        ("format", b"two"),
    ],
)
def test_a_damaged_record_is_an_error_of_its_own_job_only(
    jobs: JobStore, client: redis.Redis, caplog: pytest.LogCaptureFixture, field: str, value: bytes | None
) -> None:
    # Given two jobs, one of them damaged
    create(jobs)
    create(jobs, job=OTHER)
    record = job_keys(JOB, "record")[0]
    if value is None:
        client.hdel(record, field)
    else:
        client.hset(record, field, value)
    # When / Then
    with pytest.raises(RecordError, match="damaged"):
        jobs.status(JOB)
    assert [status.job_id for status in jobs.statuses()] == [OTHER]
    assert "skipped in the list: " in caplog.text


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [
        (HANDOFF, "index", "0"),
        (HANDOFF, "state", []),
        (HANDOFF, "latents", 7),
        (HANDOFF, "warnings", [1]),
        (HANDOFF, "made_with", {"precision": 7}),
        (HANDOFF, "engine_started", "now"),
        (CLIP, "size", 1.5),
        (CLIP, "frames", True),
        (FILM, "fps", 24),
        (FILM, "sha256", None),
    ],
)
def test_a_stored_field_of_a_wrong_type_is_a_damaged_record(record: Any, field: str, value: object) -> None:
    # Given a record that is read as it was written
    assert type(record).unpack(record.pack()) == record
    # When / Then
    damaged = msgpack.packb(msgpack.unpackb(record.pack()) | {field: value})
    with pytest.raises(RecordError, match=rf"a \w+ record is damaged: {field}"):
        type(record).unpack(damaged)


@pytest.mark.parametrize("payload", [7, {}, {"segment_index": "x"}, {"video": "x"}, {"video": {"blob_id": 7}}])
def test_a_stored_state_of_a_wrong_form_is_a_damaged_record(payload: object) -> None:
    handoff = replace(HANDOFF, state={"kind": "ltx2.v1", "payload": payload})
    with pytest.raises(RecordError, match="is damaged"):
        timing_after(SegmentShape(17, Fraction(24)), handoff), handoff_blobs(handoff)


def test_a_clip_whose_record_was_lost_is_made_again(jobs: JobStore, client: redis.Redis) -> None:
    # Given a job whose only segment is committed, and its clip
    create(jobs, segments=1)
    made = commit(jobs, claim(jobs, 0))
    assert jobs.commit_clip(made, CLIP).accepted
    # When both are gone, the clip and the message of the film
    client.delete(*job_keys(JOB, "clips", "units"))
    # Then the clip is due
    assert [(need.unit, need.why) for need in jobs.survey(JOB)] == [(WorkUnit.clip(0), "unannounced")]
    assert jobs.announce(JOB, WorkUnit.clip(0))


def test_a_part_under_the_index_of_another_is_a_damaged_record(jobs: JobStore, client: redis.Redis) -> None:
    create(jobs)
    for what, part in (("handoffs", HANDOFF), ("clips", CLIP)):
        client.hset(job_keys(JOB, what)[0], "1", part.pack())
        with pytest.raises(RecordError, match=r"damaged: it is about segment 0"):
            getattr(jobs, what)(JOB)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("index", 1),
        ("index", "0"),
        ("ticket", None),
        ("stamp", 1.5),
        ("announced", []),
        ("token", 7),
        ("fence", "1"),
        ("expires", {}),
        ("engine", "yes"),
        ("worker", None),
        ("attempts", "many"),
        ("after", None),
        ("lease", True),
        ("node", 7),
        ("sticky", "no"),
        ("failures", "often"),
        ("failures", [{"worker": "w"}]),
        ("vanished", [7]),
    ],
)
def test_a_unit_with_a_field_of_a_wrong_type_fails_its_job_once(
    jobs: JobStore, client: redis.Redis, field: str, value: object
) -> None:
    # Given
    create(jobs)
    create(jobs, job=OTHER)
    (units,) = job_keys(JOB, "units")
    jobs.announce(JOB, WorkUnit.segment(0))
    unit = json.loads(client.hget(units, "segment") or b"")
    client.hset(units, "segment", json.dumps(unit | {field: value}))
    # When it is looked at, Then the error names it, and the others are not affected
    (_, error), (_, needs) = jobs.surveys([JOB, OTHER])
    assert f"DAMAGED unit segment: {field}" in str(error)
    assert isinstance(needs, list)
    # When it is claimed, Then the job fails
    with pytest.raises(RecordError, match=f"its record is damaged: unit segment: {field}"):
        jobs.claim(JOB, WorkUnit.segment(0), unit["ticket"], "w")
    status = jobs.status(JOB)
    assert (status.state, status.reason) == ("failed", f"its record is damaged: unit segment: {field}")


@pytest.mark.parametrize("name", ["cursor", "segments", "chained", "epoch", "ticket", "fence"])
@pytest.mark.parametrize("value", [b"many", b"1.5", b"-7", b"9" * 30])
def test_a_count_of_a_wrong_type_is_found_by_the_survey(
    jobs: JobStore, client: redis.Redis, name: str, value: bytes
) -> None:
    create(jobs)
    client.hset(job_keys(JOB, "record")[0], name, value)
    ((_, found),) = jobs.surveys([JOB])
    is_harmless = value == b"-7" and name not in ("cursor", "segments")
    assert ("DAMAGED record: " in str(found)) != is_harmless


def test_a_damaged_timing_of_0_1_is_a_damaged_record() -> None:
    with pytest.raises(RecordError, match="a handoff record is damaged: timing is not a mapping"):
        Handoff.unpack(msgpack.packb({"index": 0, "state": {}, "timing": 7}))


@pytest.mark.parametrize("garbage", [b"\xc1garbage", b"{", b"[]", b"null"])
def test_a_damaged_unit_does_not_stop_the_reconciling_of_other_jobs(
    jobs: JobStore, client: redis.Redis, garbage: bytes
) -> None:
    create(jobs)
    create(jobs, job=OTHER)
    commit(jobs, claim(jobs, 0))
    client.hset(job_keys(JOB, "units")[0], "segment", garbage)
    (damaged, found), (other, needs) = jobs.surveys([JOB, OTHER])
    assert (damaged, other) == (JOB, OTHER)
    assert isinstance(found, Exception)
    assert isinstance(needs, list)
    assert [need.unit.index for need in needs] == [0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_clips": ["sha256:0"]}, "1 clips for 2 parts"),
        ({"source_frames": 0}, "TimelineError: 21 frames of a video in parts of 0"),
    ],
)
def test_a_start_whose_video_does_not_add_up_is_damaged(changes: dict[str, Any], message: str) -> None:
    # Given a job whose film begins with 21 frames of a video, in parts of 10
    shape = SegmentShape(17, Fraction(24), 9)
    timing = first_timing(shape)
    payload = {"segment_index": -1, "audio_conditioning_num_frames": 4, "video_position_offset_sec": 0.0}
    start = Handoff(-1, {"payload": payload}, first_frame=30, source_clips=["sha256:0"] * 2, source_frames=10)
    made = Handoff(0, {"payload": {"audio_sample_rate": 24_000}}, continued=True)
    shown = shown_timing(timing_after(PlannedSegment(shape), start), start)
    source = film_source(JOB, [start], [shown], made)
    assert source is not None
    assert [part.new_frames for part in source.parts] == [10, 11]
    assert (shown.first_frame, shown.dissolve, timing.dissolve) == (21, 9, 0)
    # When / Then
    with pytest.raises(RecordError, match=f"the record of job {JOB} is damaged: {message}"):
        film_source(JOB, [replace(start, **changes)], [shown], made)
    with pytest.raises(RecordError, match="OverflowError"):
        film_source(JOB, [start], [shown], replace(made, state={"payload": {"audio_sample_rate": math.inf}}))
    assert film_source(JOB, [replace(start, source_clips=[])], [shown], made) is None
