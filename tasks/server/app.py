"""The server as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ltx2.media.temporary import temporary_folder
from tasks.deployment import Deployment
from tasks.jobs.connection import connect
from tasks.jobs.events import EventReader
from tasks.server import event_stream, jobs_api, live_api, videos_api
from tasks.server.access import OPEN_PATHS, Keys
from tasks.server.answers import INVALID, Problem, add_error_answers, answer
from tasks.server.blob_files import BlobFiles
from tasks.server.context import ServerContext
from tasks.server.event_hub import EventHub
from tasks.server.limits import BodyLimit
from tasks.server.live import LiveFilms
from tasks.server.parts import PartTable
from tasks.settings import Settings

FOLDERS = "longtake-server-"
"""Prefix of the temporary folders with the films that are being sent."""
NO_KEY = Problem(
    401,
    "send `Authorization: Bearer KEY` with a key of this server",
    INVALID,
    "invalid_api_key",
    headers={"WWW-Authenticate": "Bearer"},
)


class _KeyCheck:
    """ASGI middleware that refuses requests without a key, before anything is read of them."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        needs_key = scope["type"] == "http" and scope["path"] not in OPEN_PATHS
        refused = needs_key and not self._keys.accept(Headers(scope=scope))
        await (answer(NO_KEY) if refused else self._app)(scope, receive, send)


def make_app(settings: Settings) -> FastAPI:
    """The server of this deployment.

    Raises:
        ConfigError: a key is too short, or the table of parts cannot be read.
    """
    keys, parts = Keys(settings), PartTable.read(settings)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        client = connect(settings.redis_url, reply_timeout_s=settings.reply_timeout_s)
        hub = EventHub(EventReader(client))
        with temporary_folder(FOLDERS) as folder, Deployment(settings) as deployment, client:
            files, live = BlobFiles(folder, deployment.blobs), LiveFilms(deployment)
            app.state.context = ServerContext(settings, deployment, parts, hub, files, live)
            await hub.start()
            reading = asyncio.create_task(hub.run())
            try:
                yield
            finally:
                hub.close()
                with suppress(asyncio.CancelledError):
                    await reading

    app = FastAPI(
        title="longtake",
        version=version("longtake"),
        summary="Videos of any length with LTX-2.",
        lifespan=life,
    )
    app.add_middleware(BodyLimit, limit=settings.server_body_bytes)
    app.add_middleware(_KeyCheck, keys=keys)
    add_error_answers(app)
    app.include_router(jobs_api.router)
    app.include_router(event_stream.router)
    app.include_router(live_api.router)
    app.include_router(videos_api.router)

    @app.get("/health", tags=["server"])
    def health() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}

    return app
