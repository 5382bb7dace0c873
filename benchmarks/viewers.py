"""Viewers for `benchmarks/serve.py`: clients of events, HLS players, and clients that read nothing or vanish."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from urllib.parse import urlsplit

import httpx2

FIRST_PIECES = 3  # before the newest one, with which a player begins
RETRY_S = 0.2
ENDINGS = ("done", "failed", "cancelled")


@dataclass
class Seen:
    """What all viewers of a process saw. latencies, pieces: seconds. ids: of each client's events, by job."""

    latencies: list[float] = field(default_factory=list)
    pieces: list[float] = field(default_factory=list)
    errors: int = 0
    ids: list[tuple[str, list[str]]] = field(default_factory=list)


def watch(
    url: str,
    jobs: Mapping[str, str | None],
    *,
    clients: int,
    players: int,
    seconds: float,
    stuck: int = 0,
    to_end: bool = False,
) -> Seen:
    """Watch these jobs for so long, or to their end; returns what was seen.

    jobs: ids, with the event after which clients begin; None: with the first. clients: connections that read events.
    players: of a job's HLS playlist. stuck: as many clients that read nothing, and as many that vanish again and again.
    """
    return asyncio.run(_watch(url, jobs, clients, players, seconds, stuck, to_end))


async def _watch(
    url: str, jobs: Mapping[str, str | None], clients: int, players: int, seconds: float, stuck: int, to_end: bool
) -> Seen:
    seen = Seen()
    async with httpx2.AsyncClient(base_url=url, timeout=30, limits=httpx2.Limits(max_connections=None)) as http:
        watching = [
            *(_follow(url, job, jobs[job], seen) for job in _each(jobs, clients)),
            *(_play(http, job, seen) for job in _each(jobs, players)),
            *(_read_nothing(url, job) for job in _each(jobs, stuck)),
            *(_vanish(url, job) for job in _each(jobs, stuck)),
        ]
        tasks = [asyncio.create_task(one) for one in watching]
        done, running = await asyncio.wait(tasks, timeout=seconds) if tasks else (set(), set())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for task in done:
            task.result()
        if to_end and running:
            seen.errors += len(running)
    if not tasks:
        await asyncio.sleep(seconds)
    return seen


def _each(jobs: Iterable[str], count: int) -> Iterable[str]:
    return [job for _, job in zip(range(count), cycle(jobs), strict=False)]


async def _follow(url: str, job: str, after: str | None, seen: Seen) -> None:
    """Read the events of a job; after a lost connection, ask for those after the last one."""
    ids: list[str] = []
    seen.ids.append((job, ids))
    began = time.time()
    while True:
        with suppress(OSError):
            reader, writer = await _opened(url, job, ids[-1] if ids else after)
            try:
                fields: dict[str, str] = {}
                while line := await reader.readline():
                    name, _, value = line.decode().strip().partition(": ")
                    if name:
                        fields[name] = value
                    elif "data" in fields:
                        ids.append(fields["id"])
                        at = json.loads(fields["data"])["at"]
                        if at > began:  # earlier ones are replayed
                            seen.latencies.append(time.time() - at)
                        if fields["event"] in ENDINGS:
                            return
                        fields = {}
            finally:
                writer.close()
        await asyncio.sleep(RETRY_S)


async def _opened(
    url: str, job: str, after: str | None = None, limit: int = 2**16
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=limit)
    last = f"Last-Event-ID: {after}\r\n" if after else ""
    # in HTTP/1.0 there are no chunks to take apart
    writer.write(f"GET /jobs/{job}/events HTTP/1.0\r\nHost: {place.netloc}\r\n{last}\r\n".encode())
    await writer.drain()
    return reader, writer


async def _play(http: httpx2.AsyncClient, job: str, seen: Seen) -> None:
    """Play a job's film from near its newest piece on, as HLS players do."""
    played: set[str] = set()
    while True:
        pause = 1.0
        try:
            answer = await http.get(f"/jobs/{job}/live.m3u8")
            if answer.status_code == 200:
                lines = answer.text.splitlines()
                pause = float(next(line for line in lines if "TARGETDURATION" in line).partition(":")[2])
                pieces = [line for line in lines if not line.startswith("#")]
                if not played:
                    header = next(line for line in lines if "EXT-X-MAP" in line).split('"')[1]
                    await http.get(f"/jobs/{job}/{header}")
                    played.update(pieces[:-FIRST_PIECES])
                for piece in pieces:
                    if piece not in played:
                        began = time.perf_counter()
                        (await http.get(f"/jobs/{job}/{piece}")).raise_for_status()
                        seen.pieces.append(time.perf_counter() - began)
                        played.add(piece)
                if "#EXT-X-ENDLIST" in lines:
                    return
            elif answer.status_code != 404:
                seen.errors += 1
        except httpx2.HTTPError:
            seen.errors += 1
        await asyncio.sleep(pause)


async def _read_nothing(url: str, job: str) -> None:
    _, writer = await _opened(url, job, limit=1)
    try:
        await asyncio.Event().wait()
    finally:
        writer.close()


async def _vanish(url: str, job: str) -> None:
    while True:
        _, writer = await _opened(url, job)
        await asyncio.sleep(0.5)
        writer.transport.abort()
