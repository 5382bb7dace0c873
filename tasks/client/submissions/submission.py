"""Creates the record of a job, after what the job starts from was pinned for its submission."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis

from blobstore import BlobStoreError, InMemoryBlobStore
from tasks.deployment import Deployment
from tasks.errors import JobStateError, MaybeQueuedError, RoomError, SpecError, UnreachableError
from tasks.jobs.committed import Committed
from tasks.jobs.keys import submission_owner
from tasks.jobs.queues import Priority
from tasks.jobs.records import ForkOrigin, Submission
from tasks.jobs.results import CreateOutcome, Creation
from tasks.maintenance.admission import admit_now, check_room, estimate_bytes
from tasks.maintenance.submissions import complete_submission
from tasks.spec.schema import JobSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Draft:
    """A job before it has a record. spec: its image is a blob id. blobs: all that it starts from.

    digest: the hash of what was submitted, with an idempotency key. pending: those of its blobs that are to be stored.
    fork_of: where its committed segments are from.
    """

    spec: JobSpec
    committed: Committed
    blobs: list[str]
    digest: str = ""
    pending: InMemoryBlobStore = field(default_factory=InMemoryBlobStore)
    priority: Priority = Priority.NORMAL
    fork_of: ForkOrigin | None = None

    @property
    def pending_bytes(self) -> int:
        """The bytes that are to be stored before the job has a record."""
        return self._pending(self.blobs)

    def needs_bytes(self) -> int:
        """The bytes of all blobs of the job, see `estimate_bytes`."""
        of_video = sum(self._pending(given.source_clips) for given in self.committed.given)
        return estimate_bytes(self.spec, self.pending_bytes - of_video, self.committed.source_frames)

    def _pending(self, blobs: Iterable[str]) -> int:
        return sum(self.pending.info(blob_id).size for blob_id in set(blobs) if blob_id in self.pending)


def create_job(
    deployment: Deployment, job_id: str, draw_up: Callable[[str], Draft], *, idempotency_key: str | None = None
) -> Creation:
    """Store what a job starts from, create its record, and admit it. A request that is refused stores nothing.

    draw_up: pins provisionally what is stored already, for the submission's owner that it is given. Until there is a
    record, nothing is pinned for the job.

    Raises:
        RoomError: it needs more than the whole blob budget, or this has no room now for what it starts from.
        JobStateError: `job_id` is taken, or the key was used with another request. MaybeQueuedError: the reply was
        lost. UnreachableError, BlobStoreError: a server cannot be reached. What `draw_up` raises.
    """
    request = secrets.token_hex(16)
    owner = submission_owner(request)
    draft, may_exist = None, False
    try:
        draft = draw_up(owner)
        stored = draft.pending_bytes
        needs = draft.needs_bytes()
        budget = deployment.budget_bytes()
        check_room(needs, budget)
        submission = Submission(request, draft.blobs, idempotency_key or "", draft.digest)
        creation = Creation(CreateOutcome.CREATED, job_id)
        if stored:
            creation = deployment.jobs.foresee(
                job_id, submission, needs_bytes=needs, stored_bytes=stored, budget_bytes=budget
            )
        if creation.outcome == CreateOutcome.CREATED:
            _store(deployment, draft, owner)
            deployment.jobs.check_writable()  # a replica, for example, has nothing after it refused
            may_exist = True
            creation = deployment.jobs.create(
                job_id,
                draft.spec,
                model=draft.spec.model or deployment.settings.model,
                needs_bytes=needs,
                stored_bytes=stored,
                budget_bytes=budget,
                committed=draft.committed,
                submission=submission,
                priority=draft.priority,
                fork_of=draft.fork_of,
            )
            may_exist = creation.outcome == CreateOutcome.CREATED
    except redis.RedisError as error:
        may_exist = may_exist and _is_lost_reply(error)
        if not may_exist:
            raise
        raise MaybeQueuedError(_may_be_queued(job_id, error, has_key=bool(idempotency_key)), job_id) from error
    finally:
        if not may_exist and (draft is None or draft.blobs):
            with suppress(BlobStoreError):  # the pins expire
                deployment.blobs.release(owner)
    if creation.outcome == CreateOutcome.CREATED and not draft.blobs:
        admit_now(deployment.jobs, deployment.publisher, deployment.settings)
    elif creation.outcome in (CreateOutcome.CREATED, CreateOutcome.SAME):
        _complete_and_admit(deployment, creation.job_id)
    _check_created(creation, job_id, idempotency_key)
    return creation


def request_digest(spec: JobSpec, others: Any) -> str:
    """The hash of a request. Values that are the defaults do not count, so that new keys change nothing.

    others: what was sent with the spec: a state, or the source of a fork.

    Raises:
        SpecError: `others` is not JSON.
    """
    submitted = [spec.model_dump(mode="json", exclude_defaults=True), others]
    try:
        text = json.dumps(submitted, sort_keys=True, default=str)
    except (TypeError, ValueError, RecursionError) as error:  # of the state; a spec is JSON
        raise SpecError(f"the state to continue is not JSON ({error}), so an idempotency key cannot name it") from None
    return hashlib.sha256(text.encode()).hexdigest()


def _check_created(creation: Creation, job_id: str, key: str | None) -> None:
    """Raise the error of a refused creation, see `create_job`."""
    if creation.outcome == CreateOutcome.FULL:
        raise RoomError(
            "the blob budget (LONGTAKE_BLOB_BUDGET_BYTES) has no room now for the image or state; try later"
        )
    if creation.outcome == CreateOutcome.TAKEN:
        raise JobStateError(f"job {job_id} already exists")
    if creation.outcome == CreateOutcome.OTHER:
        raise JobStateError(
            f"the idempotency key {key!r:.60} belongs to job {creation.job_id}, which was submitted with "
            "another spec; use another key for another job"
        )


def _store(deployment: Deployment, draft: Draft, owner: str) -> None:
    """Store what is pending of a draft, pinned provisionally for `owner`."""
    for blob_id in draft.blobs:
        if blob_id in draft.pending:
            deployment.blobs.put(draft.pending.get(blob_id), mime=draft.pending.info(blob_id).mime, owner=owner)


def _complete_and_admit(deployment: Deployment, job_id: str) -> None:
    """Complete the submission of a job with blobs, or of one that another client began, and admit the job.

    What fails here, a worker does later.
    """
    try:
        complete_submission(deployment.jobs, deployment.blobs, job_id)
    except (BlobStoreError, redis.RedisError) as error:
        log.warning("job %s is queued; a worker completes its submission: %s", job_id, error)
        return
    admit_now(deployment.jobs, deployment.publisher, deployment.settings)


def _may_be_queued(job_id: str, error: redis.RedisError, *, has_key: bool) -> str:
    why = error.reason if isinstance(error, UnreachableError) else error
    repeat = "submit it again with the same idempotency key, which is safe"
    if not has_key:
        repeat = "submit it again only if there is no such job (with an idempotency key, that is safe at any time)"
    return (
        f"job {job_id} may be queued: the reply to its submission was lost ({why}). "
        f"See `longtake status {job_id}`, or {repeat}"
    )


def _is_lost_reply(error: redis.RedisError) -> bool:
    """Whether the server may have run the command: it did not answer, or it was demoted before it was asked again."""
    return isinstance(error, redis.ConnectionError | redis.TimeoutError)
