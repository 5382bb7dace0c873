"""Playing a film while it renders: a playlist for HLS players, its pieces, and one growing MP4."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from ltx2.media.container import MP4_MIME
from tasks.jobs.events import BEGINNING, EventKind
from tasks.server.context import Context, ServerContext
from tasks.server.films.live import PieceList, playlist
from tasks.server.http.answers import content, invalid
from tasks.server.http.proxies import UNBUFFERED
from tasks.server.http.stored_files import StoredFile
from tasks.server.routes.jobs_api import JobId

router = APIRouter(prefix="/jobs", tags=["live"])
PLAYLIST = "application/vnd.apple.mpegurl"
A_YEAR = "max-age=31536000, immutable"
NOT_YET = {"Retry-After": "2"}


class LiveView(BaseModel):
    """The same as the playlist, for scripts. header, pieces: paths of what is played, in order.

    epoch: when it changes, so may what was listed. ended: no more will come.
    """

    epoch: int
    header: str | None
    pieces: list[str]
    ended: bool


@router.get("/{job_id}/live")
async def live_view(job_id: JobId, context: Context, response: Response) -> LiveView:
    """What can be played now."""
    response.headers["Cache-Control"] = "no-store"
    listed = await context.live.listed(job_id)
    places = [context.at(f"/jobs/{job_id}/live/{listed.epoch}/{piece.name}") for piece in listed.pieces]
    return LiveView(
        epoch=listed.epoch,
        header=f"{places[0]}.init.mp4" if places else None,
        pieces=[f"{place}.m4s" for place in places],
        ended=listed.ended,
    )


@router.get("/{job_id}/live.m3u8", response_class=Response, responses=content(PLAYLIST))
async def live_playlist(job_id: JobId, context: Context) -> Response:
    """An HLS playlist of what can be played now. It grows, and ends with the job.

    Its `Content-Location` is the same list under the epoch of the job: that one never changes what it has listed, and
    is gone when a repair has changed the film.
    """
    listed = await _listed(context, job_id)
    headers = {"Content-Location": context.at(f"/jobs/{job_id}/live/{listed.epoch}.m3u8")}
    return _playlist(listed, f"live/{listed.epoch}/", headers)


@router.get("/{job_id}/live/{epoch}.m3u8", response_class=Response, responses=content(PLAYLIST))
async def playlist_of_epoch(job_id: JobId, epoch: int, context: Context) -> Response:
    """The same, for as long as nothing that was listed changes."""
    listed = await _listed(context, job_id)
    if listed.epoch != epoch:
        place = context.at(f"/jobs/{job_id}/live.m3u8")
        raise invalid(f"the film was changed; its playlist is {place}", status=410, code="gone")
    return _playlist(listed, f"{epoch}/", {})


@router.get(
    "/{job_id}/live/{epoch}/{name}.init.mp4", response_class=FileResponse, responses=content(MP4_MIME, in_parts=True)
)
async def live_header(job_id: JobId, epoch: int, name: str, context: Context) -> StoredFile:
    """What is played before all pieces."""
    found = await context.live.piece(job_id, name)
    found.data.close()
    return StoredFile(found.header, media_type=MP4_MIME, headers=_kept(context))


@router.get(
    "/{job_id}/live/{epoch}/{name}.m4s", response_class=FileResponse, responses=content(MP4_MIME, in_parts=True)
)
async def live_piece(job_id: JobId, epoch: int, name: str, context: Context) -> StoredFile:
    """A piece: the pictures of one clip, and its sound."""
    found = await context.live.piece(job_id, name)
    found.header.close()
    return StoredFile(found.data, media_type=MP4_MIME, headers=_kept(context))


@router.get("/{job_id}/live.mp4", response_class=StreamingResponse, responses=content(MP4_MIME))
async def live_film(job_id: JobId, context: Context) -> StreamingResponse:
    """One MP4 that grows while the film renders, for players that know no playlists. It cannot be searched."""
    listed = await _listed(context, job_id)
    return StreamingResponse(_growing(context, job_id, listed.epoch), media_type=MP4_MIME, headers=UNBUFFERED)


async def _growing(context: ServerContext, job_id: str, epoch: int) -> AsyncIterator[bytes]:
    sent = 0
    async for event in context.hub.events(job_id, BEGINNING):
        if event.kind != EventKind.CLIP and not event.kind.ends_job:
            continue
        status = await run_in_threadpool(context.status, job_id)
        listed = await run_in_threadpool(context.live.pieces, status)
        if listed.epoch != epoch:
            return
        for piece in listed.pieces[sent:]:
            with await context.live.piece(job_id, piece.name) as made:
                if not sent:
                    yield await run_in_threadpool(made.header.read)
                yield await run_in_threadpool(made.data.read)
            sent += 1
        if listed.ended:
            return


def _kept(context: ServerContext) -> dict[str, str]:
    """Pieces never change; a cache that several callers share would give them to those without a key, too."""
    return {"Cache-Control": f"{'private' if context.settings.api_keys else 'public'}, {A_YEAR}"}


async def _listed(context: ServerContext, job_id: str) -> PieceList:
    listed = await context.live.listed(job_id)
    if not listed.pieces:
        raise invalid(f"job {job_id} has nothing to play yet", status=404, code="nothing_yet", headers=NOT_YET)
    return listed


def _playlist(listed: PieceList, folder: str, headers: dict[str, str]) -> Response:
    return Response(playlist(listed, folder), media_type=PLAYLIST, headers={"Cache-Control": "no-store", **headers})
