"""The pages of the server: jobs, a film with its player, a form for new films."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import jinja2
from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from starlette.staticfiles import StaticFiles

from tasks.client.display.pace import pace_in_deployment
from tasks.client.display.plan import plan_lines
from tasks.client.display.progress import clock, describe, share_done
from tasks.client.edits.fork import fork_longer
from tasks.client.job import Job
from tasks.client.takes import takes_in
from tasks.errors import JobStateError, RoomError, SpecError
from tasks.jobs.reading.waits import Wait
from tasks.jobs.records import JobStatus
from tasks.jobs.units import JobState
from tasks.server.context import Context, ServerContext
from tasks.server.films.pictures import change_curve, changes, thumbnail
from tasks.server.http.access import COOKIE, Keys
from tasks.server.http.answers import EXPECTED, RequestError, problem_of
from tasks.server.routes.jobs_api import JobId
from tasks.server.routes.spec_requests import SpecRequest, read_form, read_spec_request, requested_spec, submit_request
from tasks.server.routes.views import job_view

FOLDER = Path(__file__).with_name("page")
PAGE_LENGTH = 50
EXAMPLE = """title: my film
width: 192
height: 128
frames: 25
segments:
  - prompt: a yellow circle moves right over a blue background, low hum
  - prompt: a yellow circle moves right over a blue background, low hum
  - prompt: a red triangle moves quickly down and right over a white background, high hum
    transition: cut
"""
ACTIONS = {
    JobState.QUEUED: ("pause", "cancel"),
    JobState.RUNNING: ("pause", "cancel"),
    JobState.PAUSED: ("resume", "cancel"),
    JobState.OPEN: ("close", "cancel"),
    JobState.AWAITING_APPROVAL: ("approve", "cancel"),
    JobState.FAILED: ("retry",),
}
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
# Only our own files and answers are loaded, and no other site may show a page in a frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)


class _PageRoute(APIRoute):
    """A path whose errors are a page for a browser that asks for one."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answered = super().get_route_handler()

        async def answered_or_explained(request: Request) -> Response:
            try:
                return await answered(request)
            except EXPECTED as error:
                if "text/html" not in request.headers.get("accept", ""):
                    raise
                problem, context = problem_of(error), request.app.state.context
                text = problem.message.partition("; `GET ")[0]  # what follows is for programs
                return shown(context, "error.html", "Error", problem.status, problem=text)

        return answered_or_explained


router = APIRouter(include_in_schema=False, route_class=_PageRoute)
files = StaticFiles(directory=FOLDER)
_templates = jinja2.Environment(loader=jinja2.FileSystemLoader(FOLDER), autoescape=True)


def shown(context: ServerContext, template: str, title: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page of this template."""
    shared = {"title": title, "flower": context.settings.flower_url, "root": context.settings.root_path}
    text = _templates.get_template(template).render(**shared, **values)
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store", "Referrer-Policy": "same-origin"}
    return HTMLResponse(text, status, headers)


@router.get("/")
def jobs_page(context: Context, after: str | None = None) -> Response:
    """The newest jobs."""
    page = context.waiting_jobs(after=after, limit=PAGE_LENGTH)
    now = context.deployment.jobs.now()
    rows = [_row(status, wait, now) for status, wait in page.entries]
    following = rows[-1]["id"] if page.has_more else None
    return shown(context, "jobs.html", "Films", jobs=rows, next=following)


@router.get("/films/{job_id}")
def film_page(job_id: JobId, context: Context) -> Response:
    """A job with its player, its segments and what can be done with it."""
    return _film_page(context, job_id)


@router.post("/films/{job_id}")
def act(job_id: JobId, context: Context, action: Annotated[str, Form()]) -> Response:
    """Pause, resume, cancel or retry a job."""
    changes_of: dict[str, Callable[[Job], None]] = {
        "pause": Job.pause,
        "resume": Job.resume,
        "cancel": Job.cancel,
        "retry": Job.retry,
        "approve": Job.approve,
        "close": Job.close_end,
    }
    return _steered(context, job_id, changes_of.get(action, _unknown))


@router.post("/films/{job_id}/segments/{segment}/retake")
def retake(
    job_id: JobId,
    segment: int,
    context: Context,
    prompt: Annotated[str, Form()] = "",
    seed: Annotated[str, Form()] = "",
    last: Annotated[int | None, Form(ge=0)] = None,
) -> Response:
    """Render a segment again, or all up to `last` as one take. Empty: the segment's prompt, or another seed."""
    text = prompt.replace("\r\n", "\n") or None  # forms have other ends of lines than specs
    if text == context.deployment.jobs.prompts(job_id).get(segment):
        text = None  # the other segments keep theirs, too
    return _steered(context, job_id, lambda job: job.retake(segment, last=last, prompt=text, seed=_seed(seed)))


@router.post("/films/{job_id}/append")
def append(
    job_id: JobId,
    context: Context,
    prompts: Annotated[str, Form()] = "",
    transition: Annotated[Literal["", "cut"], Form()] = "",
    into: Annotated[Literal["this", "new"], Form()] = "this",
) -> Response:
    """Go on with a film: append segments to it, or make a new one that begins with it."""
    added: list[dict[str, Any]] = [{"prompt": line} for line in prompts.splitlines() if line.strip()]
    if added and transition:
        added[0]["transition"] = transition
    if into == "this":
        return _steered(context, job_id, lambda job: job.append(added))
    new: list[str] = []

    def make(job: Job) -> None:
        new.append(fork_longer(context.deployment, job.id, added))

    answer = _steered(context, job_id, make)
    return RedirectResponse(context.at(f"/films/{new[0]}"), 303) if new else answer


@router.post("/films/{job_id}/segments/{segment}/choose")
def choose(job_id: JobId, segment: int, context: Context, take: Annotated[int, Form(ge=0)]) -> Response:
    """Have the film show a take."""
    return _steered(context, job_id, lambda job: job.choose(segment, take))


@router.get("/films/{job_id}/{segment}.webp")
def segment_picture(job_id: JobId, segment: int, context: Context) -> Response:
    """The first picture of a segment."""
    with context.clip(job_id, segment) as clip:
        return Response(thumbnail(clip), media_type="image/webp", headers=FOREVER)


@router.get("/films/{job_id}/{segment}.svg")
def segment_changes(job_id: JobId, segment: int, context: Context) -> Response:
    """How much the picture changes from frame to frame in a segment; the first point is its join."""
    with context.clip_and_before(job_id, segment) as clips:
        return Response(change_curve(changes(clips)), media_type="image/svg+xml", headers=FOREVER)


@router.get("/new")
def new_page(context: Context) -> Response:
    """The form for a new film."""
    return shown(context, "new.html", "New film", spec=EXAMPLE)


@dataclass(frozen=True, slots=True)
class _NewFilm:
    """What the form for a new film sent. text: of its spec. wanted: or what is wrong with it."""

    text: str
    is_submitted: bool
    wanted: SpecRequest | SpecError | RequestError


async def _read_new_film(request: Request) -> _NewFilm:
    wanted: SpecRequest | SpecError | RequestError
    async with read_form(request) as form:
        text, action = str(form.get("spec", "")), form.get("action")
        try:
            wanted = await read_spec_request(request)
        except (SpecError, RequestError) as error:
            wanted = error
    return _NewFilm(text, action == "submit", wanted)


@router.post("/new")
def submit_page(sent: Annotated[_NewFilm, Depends(_read_new_film)], context: Context) -> Response:
    """Check a spec, or submit it."""
    try:
        if isinstance(sent.wanted, Exception):
            raise sent.wanted
        if not sent.is_submitted:
            spec = requested_spec(context, sent.wanted)
            pace = pace_in_deployment(context.settings, spec)
            plan = plan_lines(spec, spec.model or context.settings.model, continues=False, pace=pace)
            return shown(context, "new.html", "New film", spec=sent.text, plan=plan)
        with submit_request(context, sent.wanted) as job:
            return RedirectResponse(context.at(f"/films/{job.id}"), 303)
    except (SpecError, RequestError, JobStateError, RoomError) as error:
        problem = "\n".join(problem_of(error).message.split("; "))
        return shown(context, "new.html", "New film", spec=sent.text, problem=problem)


@router.get("/login")
def login_page(context: Context) -> Response:
    """Asks for a key."""
    return shown(context, "login.html", "Key")


@router.post("/login")
def login(request: Request, context: Context, key: Annotated[str, Form()]) -> Response:
    """Keep the key in a cookie that scripts cannot read and other sites cannot send."""
    if not Keys(context.settings).knows(key):
        return shown(context, "login.html", "Key", 401, problem="This is not a key of this server.")
    answer = RedirectResponse(context.at("/"), 303)
    secure = request.url.scheme == "https"
    ours: dict[str, Any] = {"httponly": True, "samesite": "strict", "secure": secure, "path": context.at("") or "/"}
    answer.set_cookie(COOKIE, key.strip(), max_age=30 * 86400, **ours)
    return answer


def _steered(context: ServerContext, job_id: str, change: Callable[[Job], object]) -> Response:
    """The film's page after a change, or with what is wrong: the job may have ended while the page was looked at."""
    try:
        with context.job(job_id) as job:
            change(job)
    except (JobStateError, SpecError, RoomError) as error:
        problem = problem_of(error)
        return _film_page(context, job_id, problem=problem.message, status=problem.status)
    return RedirectResponse(context.at(f"/films/{job_id}"), 303)


def _seed(text: str) -> int | None:
    if not text.strip():
        return None
    try:
        return int(text)
    except ValueError:
        raise SpecError(f"seed: {text!r:.40} is not a whole number") from None


def _unknown(_: Job) -> None:
    raise JobStateError("there is no such action")


def _film_page(context: ServerContext, job_id: str, *, problem: str | None = None, status: int = 200) -> Response:
    found = context.status(job_id)
    wait = context.deployment.jobs.waits([found]).get(job_id)
    contents = context.deployment.jobs.contents(job_id)
    handoffs, clips = contents.committed.handoffs, contents.committed.clips
    takes = takes_in(contents)
    can_retake = not found.finished or found.committed == found.segments
    segments = []
    for index, segment in enumerate(contents.segments):
        made = handoffs[index] if index < len(handoffs) else None
        clip = clips.get(index)
        time = f"{made.engine_ended - made.engine_started:.1f} s" if made else ""
        seed = made.seed if made else contents.head.seed_of(index, segment)
        row = {"index": index, "prompt": segment.prompt, "seed": seed, "time": time}
        row |= {"clip": clip.blob_id[-12:] if clip else None, "can_retake": made is not None and can_retake}
        before = clips.get(index - 1)
        row["joins"] = f"{before.blob_id[-12:]}-{clip.blob_id[-12:]}" if before and clip else None
        segments.append(row | {"takes": [take for take in takes if take.segment == index]})
    values = {
        "job": _row(found, wait, context.deployment.jobs.now()),
        "width": found.film.width if found.film else contents.head.width,
        "workers": json.dumps({worker.token: worker.name for worker in context.deployment.jobs.workers().workers}),
        "segments": segments,
        "rendered": len(handoffs),
        "actions": ACTIONS.get(found.state, ()),
        "can_append": found.state not in (JobState.FAILED, JobState.CANCELLED),
    }
    return shown(context, "film.html", found.title, status, problem=problem, **values)


def _row(status: JobStatus, wait: Wait | None, now: float) -> dict[str, Any]:
    share = share_done(status)
    left = None
    if status.started_at is not None and 0 < share < 1 and status.state == JobState.RUNNING:
        left = max(0.0, now - status.started_at) / share * (1 - share)
    text = describe(status, wait=wait) + ("" if left is None else f" · {clock(left)} left")
    created = datetime.fromtimestamp(status.created_at, UTC).isoformat(" ", "minutes").removesuffix("+00:00")
    percent = 100 if status.state == JobState.DONE else min(99, int(share * 100))
    view = job_view(status, wait).model_dump()
    return view | {"text": text, "percent": percent, "created": f"{created} UTC"}
