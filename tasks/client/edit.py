"""Makes the film of a job that of a changed spec, and renders again only what must be."""

from __future__ import annotations

from tasks.client.edits.fork import fork_job
from tasks.client.edits.methods import GivenSpec, edit_in_place, given_spec
from tasks.client.edits.plan import EditKind, EditPlan
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.errors import JobStateError
from tasks.jobs.units import START_INDEX


def edit(job: Job, spec: GivenSpec, *, plan: EditPlan | None = None) -> Job:
    """Make the film of `job` that of `spec`, a spec of the whole film; returns the job that renders it.

    Segments that no worker has claimed are changed, and new ones appended, in `job`. If one is changed that is rendered
    already, a fork after the last unchanged one renders the rest; if everything changes, a new job does. The title of
    `job` stays. plan: what `job.plan_edit(spec)` returned; default: made now.

    Raises:
        JobNotFoundError: no such job. SpecError: an invalid spec. JobStateError: the job went on meanwhile and does not
        fit the plan any more. What `Job.append`, `Job.fork` and `submit` raise.
    """
    wanted, deployment = given_spec(spec), job._deployment
    plan = plan or job.plan_edit(wanted)
    if plan.kind == EditKind.FORK:
        made = fork_job(deployment, job.id, after=plan.kept - 1, spec=wanted, may_be_whole=True)
        return Job(made, settings=deployment.settings)
    if plan.kind == EditKind.NEW_JOB:
        if wanted.extend is None and deployment.jobs.handoff(job.id, START_INDEX) is not None:
            raise JobStateError(
                f"job {job.id} continues a state, which a new job does not know: submit the spec with that state"
            )
        return submit(wanted, settings=deployment.settings)
    if plan.kind == EditKind.IN_PLACE:
        edit_in_place(deployment, plan, wanted)
    return job
