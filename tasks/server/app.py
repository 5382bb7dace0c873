"""The server as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ltx2.media.temporary import temporary_folder
from tasks.deployment import Deployment
from tasks.jobs.changes.writer import new_token
from tasks.jobs.connection import connect
from tasks.jobs.events import EventReader
from tasks.jobs.outbox import Outbox
from tasks.messaging.tracing import tracing
from tasks.server import api_page, metrics, pages
from tasks.server.context import ServerContext
from tasks.server.events.hub import WAIT_S, EventHub
from tasks.server.events.webhooks import Sender
from tasks.server.films.blob_files import FOLDERS, BlobFiles
from tasks.server.films.joins import Joins
from tasks.server.films.live import LiveFilms
from tasks.server.films.reports import Reports
from tasks.server.http.access import OPEN_PATHS, Keys, is_from_elsewhere
from tasks.server.http.answers import ANSWERS, INVALID, ErrorAnswer, Problem, add_error_answers, answer
from tasks.server.http.early_ends import EarlyEnds
from tasks.server.http.head_requests import HeadRequests
from tasks.server.http.limits import BodyLimit
from tasks.server.http.proxies import BehindProxy, check_prefix, path_of, proxies_in
from tasks.server.names import NameTable
from tasks.server.routes import edits_api, event_stream, jobs_api, live_api, takes_api, videos_api
from tasks.settings import Settings
from tasks.spec.loader import MAX_SPEC_BYTES

log = logging.getLogger(__name__)
AGAIN_S = 1.0
NO_KEY = Problem(
    401,
    "send `Authorization: Bearer KEY` with a key of this server",
    INVALID,
    "invalid_api_key",
    headers={"WWW-Authenticate": "Bearer"},
)
WITH_ROUTES = (jobs_api, takes_api, edits_api, event_stream, live_api, videos_api, metrics, pages, api_page)
UPLOAD_PATHS = re.compile("/jobs(/[^/]+/(fork|edit|segments))?|/new|/v1/videos(/extensions)?")
"""Requests that may have files: LONGTAKE_SERVER_BODY_BYTES is for them alone."""
LARGEST_OPEN_BODY_BYTES = 16 * 1024
"""Of a request that needs no key."""
ELSEWHERE = Problem(403, "a page of another site may not call this server", INVALID, "other_origin")


def largest_body(settings: Settings, path: str) -> int:
    """The most bytes of the body of a request to `path`."""
    if path in OPEN_PATHS:
        return LARGEST_OPEN_BODY_BYTES
    if UPLOAD_PATHS.fullmatch(path):
        return settings.server_body_bytes
    return min(settings.server_body_bytes, MAX_SPEC_BYTES)


class _KeyCheck:
    """ASGI middleware that refuses requests without a key, and those that another site made a browser send.

    Nothing is read of them.
    """

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._refusal(scope) or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        if scope["type"] != "http":
            return None
        headers = Headers(scope=scope)
        if is_from_elsewhere(scope["method"], headers, has_keys=bool(self._keys)):
            return answer(ELSEWHERE)
        if path_of(scope) in OPEN_PATHS or self._keys.accept(headers):
            return None
        is_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        return RedirectResponse(f"{scope['root_path']}/login", 303) if is_page else answer(NO_KEY)


class _Callers:
    """ASGI middleware that knows the span of a caller, for traces."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else {}
        with tracing.of_caller(headers):
            await self._app(scope, receive, send)


async def _kept_up(work: Callable[[], Awaitable[None]]) -> None:
    """Run work that ends with the server, and run it again if it fails: nobody would miss it at first."""
    while True:
        try:
            return await work()
        except Exception:
            log.exception("work in the background failed, and begins again")
            await asyncio.sleep(AGAIN_S)


def _paths() -> Iterator[str]:
    """The paths of all requests."""
    yield from (*OPEN_PATHS, "/openapi.json")
    for module in WITH_ROUTES:
        yield from (route.path for route in module.router.routes if isinstance(route, APIRoute))


def make_app(settings: Settings) -> FastAPI:
    """The server of this deployment.

    Raises:
        ConfigError: a key is too short, the table of names cannot be read, or the prefix or a proxy cannot be.
    """
    keys, names = Keys(settings), NameTable.read(settings)
    proxies_in(settings)
    check_prefix(settings.root_path, {path.split("/")[1] for path in _paths()})

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        # the reply to a wait for events comes after that
        client = connect(settings.redis_url, reply_timeout_s=WAIT_S + settings.reply_timeout_s)
        hub = EventHub(EventReader(client))
        with temporary_folder(FOLDERS) as folder, Deployment(settings) as deployment, client:
            files = BlobFiles(folder, deployment.blobs)
            live = LiveFilms(deployment, files)
            outbox = Outbox(client, new_token())
            tracing.start()
            app.state.context = ServerContext(
                settings, deployment, names, hub, files, live, Joins(deployment), Reports(files), outbox
            )
            sender = Sender(settings, deployment.jobs, EventReader(client), outbox)
            await hub.start()
            running = [asyncio.create_task(_kept_up(work)) for work in (hub.run, sender.run)]
            try:
                yield
            finally:
                hub.close()
                sender.close()
                await asyncio.gather(*running, return_exceptions=True)
                tracing.stop()

    app = FastAPI(
        title="longtake",
        version=version("longtake"),
        summary="Videos of any length with LTX-2.",
        lifespan=life,
        docs_url=None,  # FastAPI's pages load scripts from other hosts; ours is in `api_page`
        redoc_url=None,
        responses=ANSWERS,
    )
    app.add_middleware(_Callers)
    app.add_middleware(HeadRequests)
    app.add_middleware(EarlyEnds)
    app.add_middleware(BodyLimit, largest=partial(largest_body, settings))
    app.add_middleware(_KeyCheck, keys=keys)
    app.add_middleware(BehindProxy, settings=settings, keys=keys)
    add_error_answers(app)
    for module in WITH_ROUTES:
        app.include_router(module.router)
    app.mount("/page", pages.files)

    @app.get("/health", tags=["server"], responses={"4XX": {"model": ErrorAnswer}})  # so that the document has it
    def health() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}

    return app
