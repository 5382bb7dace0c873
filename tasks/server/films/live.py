"""What live players get of a film that is being rendered: a list of pieces, made once each and kept as blobs.

A piece is named by what it is made of: any server, at any time, makes the same bytes. The list is that of the clips
from the first to the first that is missing, after those of a video with which the film begins; those of a video with
which it ends come with the last one. While the epoch of a job stays the same, the list only grows. A piece for which
the blob budget has no room is kept on the server's disk alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import BinaryIO, Self

from starlette.concurrency import run_in_threadpool

from blobstore import BlobStoreError, BlobStoreFullError
from ltx2.media.container import MP4_MIME
from ltx2.media.live import LivePiece, first_clips_needed, live_piece
from ltx2.timeline import FilmPart
from tasks.deployment import Deployment
from tasks.errors import JobNotFoundError
from tasks.jobs.keys import check_job_id
from tasks.jobs.records import Handoff, JobStatus, PieceRecord
from tasks.jobs.timing import FilmSource, committed_timings, film_source
from tasks.server.films.blob_files import BlobFiles
from tasks.server.films.shared_reads import SharedReads
from tasks.worker.track_cache import TrackCache

RECIPE = "1"
"""Raised when the bytes of pieces change for the same clips."""
LISTS_KEPT = 200


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece that can be played. name: by what it is made of. duration: seconds of its pictures."""

    index: int
    name: str
    duration: Fraction


@dataclass(frozen=True, eq=False, slots=True)
class PieceList:
    """The pieces that can be played now. longest: seconds that a piece may have. ended: whether no more will come."""

    epoch: int
    pieces: tuple[Piece, ...]
    longest: Fraction
    ended: bool


@dataclass(frozen=True, slots=True)
class _Film:
    """A list with what its pieces are made of. audio: the blob of the film's given sound.

    last: the index of the piece with which the film ends, also while it is missing.
    """

    listed: PieceList
    parts: Sequence[FilmPart]
    clips: Sequence[str]
    starts: Sequence[int]
    audio: str | None
    source: FilmSource | None
    last: int


@dataclass(frozen=True, slots=True)
class PieceFiles:
    """The open files of a piece. header: to be played before all pieces."""

    header: BinaryIO
    data: BinaryIO

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.header.close()
        self.data.close()


class LiveFilms:
    """Lists and pieces of the jobs of a deployment."""

    def __init__(self, deployment: Deployment, files: BlobFiles) -> None:
        self._deployment = deployment
        self._files = files
        self._films: OrderedDict[tuple[str, int, int, int, bool, bool], _Film] = OrderedDict()
        self._tracks = TrackCache()
        self._reading, self._making = threading.Lock(), asyncio.Lock()
        self._lists: SharedReads[str, PieceList] = SharedReads(
            lambda job_id: self.pieces(deployment.jobs.status(job_id))
        )
        self._records: SharedReads[tuple[str, str], PieceRecord | None] = SharedReads(self._record)

    def pieces(self, status: JobStatus) -> PieceList:
        """The pieces of a job."""
        return self._film(status).listed

    async def listed(self, job_id: str) -> PieceList:
        """The pieces of a job. JobNotFoundError: there is none."""
        return await self._lists.get(job_id)

    async def piece(self, job_id: str, name: str) -> PieceFiles:
        """The piece of a job with this name, to be closed after use; it is made if it was not.

        A request that waits for that needs no thread.

        Raises:
            JobNotFoundError: the job has no such piece, or none any more. MediaError: a clip is damaged.
            BlobStoreError: a clip is missing, or the store is out.
        """
        record = await self._records.get((job_id, name))
        if record is not None and (known := self._on_disk(record)) is not None:
            return known
        made = await run_in_threadpool(self._known, job_id, name)
        if isinstance(made, PieceFiles):
            return made
        async with self._making:  # one at a time, and each once, however many players ask for it
            return await run_in_threadpool(self._known_or_made, job_id, name)

    def _known_or_made(self, job_id: str, name: str) -> PieceFiles:
        status = self._known(job_id, name)
        if isinstance(status, PieceFiles):
            return status
        film = self._film(status)
        found = next((piece for piece in film.listed.pieces if piece.name == name), None)
        if found is None:
            raise JobNotFoundError(f"job {job_id} has no piece {name:.40}; ask for its playlist again")
        return self._make(status, film, found)

    def _known(self, job_id: str, name: str) -> PieceFiles | JobStatus:
        """A piece that was made, or the status of the job, of which one may be made."""
        if (record := self._record((job_id, name))) is not None:
            return self._of(record)  # which goes with its job, so nothing else is asked
        status = self._deployment.jobs.status(job_id)
        header, data = _names_on_disk(job_id, name)
        return self._on_disk(PieceRecord(data, header)) or status

    def _record(self, piece: tuple[str, str]) -> PieceRecord | None:
        """What is kept of a piece, by its job and its name."""
        job_id, name = piece
        return self._deployment.jobs.piece(check_job_id(job_id), name)

    def _on_disk(self, record: PieceRecord) -> PieceFiles | None:
        """A piece of which this server has copies, which are opened without waiting."""
        header, data = self._files.kept(record.header), self._files.kept(record.blob_id)
        return PieceFiles(header, data) if header and data else None

    def _of(self, record: PieceRecord) -> PieceFiles:
        return PieceFiles(self._files.opened(record.header), self._files.opened(record.blob_id))

    def _make(self, status: JobStatus, film: _Film, piece: Piece) -> PieceFiles:
        blobs, index = self._deployment.blobs, piece.index
        clips = [blobs.get(clip) for clip in film.clips[film.starts[index] : index + 1]]
        first = clips[0] if film.starts[index] == 0 else blobs.get(film.clips[0])
        track = None if film.audio is None else self._tracks.get(film.audio, blobs.get)
        is_last, rate = index == film.last, film.source.rate if film.source else None
        made = live_piece(film.parts[: index + 1], first, clips, is_last=is_last, track=track, rate=rate)
        with suppress(BlobStoreFullError):
            if (record := self._store(status.job_id, piece.name, made)) is not None:
                return self._of(record)
        header, data = _names_on_disk(status.job_id, piece.name)
        return PieceFiles(self._files.keep(header, made.header), self._files.keep(data, made.data))

    def _store(self, job_id: str, name: str, made: LivePiece) -> PieceRecord | None:
        """Keep a piece as blobs; None: jobs may need the room, or the job was deleted meanwhile."""
        jobs, size = self._deployment.jobs, len(made.header) + len(made.data)
        if not jobs.reserve_piece(job_id, name, size, budget_bytes=self._deployment.budget_bytes()):
            return None
        try:
            header, data = (self._deployment.store_for_job(job_id, part, MP4_MIME) for part in (made.header, made.data))
        except BlobStoreError:
            jobs.release_piece(job_id, name)
            raise
        record = PieceRecord(data, header)
        if jobs.note_piece(job_id, name, record):
            return record
        if not jobs.exists(job_id):
            self._deployment.blobs.release(job_id)
        return None

    def _film(self, status: JobStatus) -> _Film:
        key = (status.job_id, status.generation, status.clips, status.segments, status.open, status.finished)
        with self._reading:  # each once, however many players ask for it at the same moment
            film = self._films.get(key)
            if film is None:
                film = self._films[key] = self._read(status)
                if len(self._films) > LISTS_KEPT:
                    self._films.popitem(last=False)
            return film

    def _read(self, status: JobStatus) -> _Film:
        contents = self._deployment.jobs.contents(status.job_id)
        committed, shared, audio = contents.committed, contents.head.shared, contents.head.audio
        timings = committed_timings(
            status.job_id,
            {index: shared.planned(segment) for index, segment in enumerate(contents.segments)},
            [*committed.given, *committed.handoffs],
        )
        first = committed.handoffs[0] if committed.handoffs else None
        clips: list[str] = []
        known = status.segments - status.open  # whether the last one of an open film ends it is not known
        while len(clips) in committed.clips and len(clips) in timings and len(clips) < known:
            clips.append(committed.clips[len(clips)].blob_id)
        segments = [timings[index] for index in range(len(clips))]
        parts: Sequence[FilmPart] = segments
        source, others = film_source(status.job_id, committed.given, segments, first) if clips and first else None, 0
        if source and (not source.is_after or len(clips) == status.segments):
            parts, others = list(source.in_order(source.parts, segments)), len(source.parts)
            clips = list(source.in_order(source.clips, clips))
        starts = first_clips_needed(parts, _rate(first)) if clips and first else []
        pieces, last = [], others + status.segments - 1
        for index, (part, start) in enumerate(zip(parts, starts, strict=True)):
            cut_off = [str(hidden)] if (hidden := part.new_frames - part.shown_frames) else []
            given = [] if audio is None else [audio]
            is_last = str(index == last)
            name = _name([RECIPE, str(index), is_last, *cut_off, *given, clips[0], *clips[start : index + 1]])
            pieces.append(Piece(index, name, part.shown_frames / part.fps))
        # before workers decided lengths: a playlist's target duration must not change
        shapes = [shared.planned(segment.undecided).shape for segment in contents.segments]
        lengths = [shape.frames / shape.fps for shape in shapes]
        of_video = [part.new_frames / part.fps for part in (source.parts if source else ())]
        longest = max([*lengths, *of_video], default=Fraction(0))
        listed = PieceList(status.generation, tuple(pieces), longest, status.finished)
        return _Film(listed, parts, clips, starts, audio, source, last)


@lru_cache(LISTS_KEPT)
def playlist(listed: PieceList, folder: str) -> str:
    """An HLS playlist of these pieces, whose names are relative to `folder`, such as `live/0/`."""
    longest = -(-listed.longest.numerator // listed.longest.denominator)
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        f"#EXT-X-TARGETDURATION:{longest}",
        "#EXT-X-MEDIA-SEQUENCE:0",
        "#EXT-X-PLAYLIST-TYPE:EVENT",
        "#EXT-X-INDEPENDENT-SEGMENTS",
        f'#EXT-X-MAP:URI="{folder}{listed.pieces[0].name}.init.mp4"',
    ]
    for piece in listed.pieces:
        lines += [f"#EXTINF:{float(piece.duration):.6f},", f"{folder}{piece.name}.m4s"]
    if listed.ended:
        lines.append("#EXT-X-ENDLIST")
    return "\n".join(lines) + "\n"


def _names_on_disk(job_id: str, name: str) -> tuple[str, str]:
    return f"{job_id} {name} header", f"{job_id} {name}"


def _rate(handoff: Handoff) -> int:
    return int(handoff.state["payload"]["audio_sample_rate"])


def _name(made_of: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:32]
