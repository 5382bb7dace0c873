"""How long a segment takes, by what was rendered before with the same model and shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any

import redis

from tasks.deployment import Deployment
from tasks.errors import LongtakeError
from tasks.jobs.records import Handoff
from tasks.settings import Settings
from tasks.spec.head import INPUT_FIELDS, JobHead
from tasks.spec.schema import JobSpec

IRRELEVANT_FIELDS = {"title", "seed", "image", "image_crf", "negative_prompt", "labels", "webhook", "parallel"}
JOBS_READ = 50


@dataclass(frozen=True, slots=True)
class Pace:
    """The median seconds in the engine for a segment, and what took them, in words."""

    segment_s: float
    source: str


def work_of(head: JobHead) -> dict[str, Any]:
    """The fields of a spec on which the time for a segment depends, as JSON. Of a file, only whether there is one."""
    found = head.model_dump(mode="json", include=set(JobHead.model_fields) - IRRELEVANT_FIELDS)
    return found | {name: "given" for name in INPUT_FIELDS if found.get(name) is not None}


def seconds_of(handoffs: Sequence[Handoff]) -> float | None:
    """The median seconds in the engine of these segments; None if there are none."""
    return median(made.engine_ended - made.engine_started for made in handoffs) if handoffs else None


def pace_in_deployment(settings: Settings, spec: JobSpec) -> Pace | None:
    """The pace of the newest job whose work was the same; None if there is none among the last JOBS_READ.

    Also None if the server cannot be reached: a dry run needs none.
    """
    wanted = work_of(spec.model_copy(update={"model": spec.model or settings.model}).with_absolute_paths())
    try:
        with Deployment(settings) as deployment:
            jobs = deployment.jobs
            for status in islice(jobs.statuses(set(), newest_first=True), JOBS_READ):
                if status.rendered and work_of(jobs.head(status.job_id)) == wanted:
                    seconds = seconds_of(jobs.handoffs(status.job_id))
                    if seconds is not None:
                        return Pace(seconds, f"job {status.job_id}")
    except (redis.RedisError, LongtakeError):
        pass
    return None
