"""`/jobs/{id}/fork` and `/jobs/{id}/edit`: another film from what a job has rendered."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel

from tasks.client.edit import edit
from tasks.client.edits.plan import EditKind
from tasks.server.context import Context
from tasks.server.http.answers import invalid
from tasks.server.routes.jobs_api import SPEC_BODY, IdempotencyKey, JobId, job_status
from tasks.server.routes.spec_requests import SpecRequest, read_spec_request, requested_spec, with_uploads
from tasks.server.routes.views import JobView

router = APIRouter(prefix="/jobs", tags=["jobs"])


class EditView(BaseModel):
    """What an edit does. kept: so many leading segments are not rendered again. plan: in words.

    job: the one that renders it; null if that was only asked.
    """

    kind: EditKind
    kept: int
    plan: list[str]
    job: JobView | None


async def _read_spec(request: Request) -> SpecRequest:
    wanted = await read_spec_request(request)
    if wanted.state is not None:
        raise invalid("state: the film goes on from segments of the job; remove it", param="state")
    return wanted


async def _spec_if_given(request: Request) -> SpecRequest | None:
    return await _read_spec(request) if request.headers.get("content-type") or await request.body() else None


@router.post(
    "/{job_id}/fork", status_code=201, openapi_extra={"requestBody": SPEC_BODY["requestBody"] | {"required": False}}
)
def fork_job(
    job_id: JobId,
    context: Context,
    wanted: Annotated[SpecRequest | None, Depends(_spec_if_given)],
    after: Annotated[int, Query(ge=0, le=2**31, description="The last segment that is shared, from 0.")],
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    """Queue a new job that shares the segments up to `after`, and renders those that follow in a spec.

    The spec is one of the whole film. Without one, the rest of the job is rendered anew.
    """
    with context.job(job_id) as job:
        if wanted is None:
            made = job.fork(after, idempotency_key=idempotency_key)
        else:
            with with_uploads(requested_spec(context, wanted), wanted.files) as spec:
                made = job.fork(after, spec, idempotency_key=idempotency_key)
    made.close()
    response.headers["Location"] = context.at(f"/jobs/{made.id}")
    return job_status(made.id, context)


@router.post("/{job_id}/edit", openapi_extra=SPEC_BODY)
def edit_job(
    job_id: JobId,
    context: Context,
    wanted: Annotated[SpecRequest, Depends(_read_spec)],
    dry_run: Annotated[bool, Query(description="Only say what would be rendered again.")] = False,
) -> EditView:
    """Make the job's film that of a changed spec of the whole film; what is kept is not rendered again.

    That is done in the job if nothing changes that is rendered already, else in a fork or a new job.
    """
    with context.job(job_id) as job, with_uploads(requested_spec(context, wanted), wanted.files) as spec:
        plan = job.plan_edit(spec)
        made = None if dry_run else edit(job, spec, plan=plan)
        view = None if made is None else job_status(made.id, context)
        if made is not None and made is not job:
            made.close()
    return EditView(kind=plan.kind, kept=plan.kept, plan=list(plan.lines()), job=view)
