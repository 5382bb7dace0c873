"""What an event, a playlist and a piece cost `longtake serve`, in processor time.

    python benchmarks/fanout.py [--clients 200] [--players 50] [--rate 10] [--seconds 10] [--json out/fanout.json]

No model renders: `serve.py` measures that. The clients read the events of one job, of which this program adds `--rate`
a second; the players read playlists and pieces of a film that a stand-in engine has rendered, as fast as they can. Each
is measured alone, then all together. Processor time is that of the server's process alone, so that other work on the
machine changes it little; latencies are only as good as the machine is idle.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it also runs as a file

from benchmarks import report
from tasks.client.submit import submit
from tasks.jobs.connection import connect
from tasks.jobs.keys import EVENTS, job_keys
from tasks.settings import Settings
from tests.conftest import STAND_IN, RedisProcess, Worker, wait_until
from tests.tasks.conftest import spec
from tests.tasks.server.conftest import Server

SEGMENTS = 20
STEP = {"segment": 0, "step": 1, "steps": 8, "step_s": 0.1, "take": 0}
SETTLE_S = 1.0
PAUSE_S = 0.2  # of a player, between two requests while events come


class Bench:
    """A server, a job whose events are added by hand, and a film that is done."""

    def __init__(self, options: argparse.Namespace, server: Server) -> None:
        self.options = options
        self.server = server
        self.process = psutil.Process(server.process.pid)
        self.redis = connect(server.settings.redis_url)
        self.followed = submit(spec(open=True), settings=server.settings).id
        size = {"width": 192, "height": 128, "frames": 25}
        film = submit(spec(*["a"] * SEGMENTS, **size), settings=server.settings)
        wait_until(lambda: film.status().finished, what="the film")
        self.playlist = f"/jobs/{film.id}/live.m3u8"
        with server.client() as client:
            listed = client.get(self.playlist).text.splitlines()
        self.pieces = [f"/jobs/{film.id}/{line}" for line in listed if not line.startswith("#")]

    async def add_events(self, seconds: float) -> None:
        """Add events of the job as its worker does."""
        fields = {"kind": "step", "data": json.dumps(STEP)}
        every = 1 / self.options.rate
        began = time.monotonic()
        for number in range(int(seconds * self.options.rate)):
            await asyncio.sleep(max(0.0, began + number * every - time.monotonic()))
            event_id = self.redis.xadd(job_keys(self.followed, "events")[0], fields)
            self.redis.xadd(EVENTS, {"job": self.followed, "id": event_id, **fields})

    async def follow(self, clients: int, seconds: float) -> list[float]:
        """How late each event came to each client, in seconds."""
        late: list[float] = []
        following = [asyncio.create_task(self._follow(late)) for _ in range(clients)]
        await asyncio.sleep(SETTLE_S)
        self._mark()  # what it costs that they connect is no part of it
        await self.add_events(seconds)
        await asyncio.sleep(SETTLE_S)
        for one in following:
            one.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        return late

    async def _follow(self, late: list[float]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        began = time.time()
        with closing(writer):
            head = f"GET /jobs/{self.followed}/events HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"
            writer.write(head.encode())
            while line := await reader.readline():
                if line.startswith(b"data: ") and (at := json.loads(line[6:])["at"]) > began:
                    late.append(time.time() - at)

    async def play(self, paths: Sequence[str], players: int, seconds: float, pause_s: float = 0.0) -> list[float]:
        """How long each request took, in seconds: all players go through these paths again and again."""
        took: list[float] = []
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._play(cycle(paths), end, pause_s, took) for _ in range(players)))
        return took

    async def _play(self, paths: Iterable[str], end: float, pause_s: float, took: list[float]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        with closing(writer):
            for path in paths:
                if time.monotonic() > end:
                    return
                began = time.perf_counter()
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                assert head.startswith("http/1.1 200"), head
                await reader.readexactly(int(head.partition("content-length: ")[2].split("\r\n")[0]))
                took.append(time.perf_counter() - began)
                await asyncio.sleep(pause_s)

    async def made(self) -> list[float]:
        """How long each piece took the first time that somebody asked for it."""
        took: list[float] = []
        await self._play(self.pieces, float("inf"), 0.0, took)
        return took

    def row(self, what: str, work: Callable[[], Awaitable[Sequence[float]]]) -> dict[str, Any]:
        """Run work, and say what each of its answers cost."""
        self._mark()
        took = sorted(asyncio.run(_as_coroutine(work)))
        cpu, seconds = self._seconds() - self._before, time.monotonic() - self._began
        return {
            "what": what,
            "count": len(took),
            "CPU ms each": 1000 * cpu / len(took) if took else None,
            "server's CPU %": 100 * cpu / seconds,
            "median ms": 1000 * took[len(took) // 2] if took else None,
            "99 % ms": 1000 * took[int(0.99 * (len(took) - 1))] if took else None,
            "server's MB": self.process.memory_info().rss / 1e6,
        }

    def _mark(self) -> None:
        """Measure from here on."""
        self._before, self._began = self._seconds(), time.monotonic()

    def _seconds(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system

    def rows(self) -> Iterator[dict[str, Any]]:
        """Measure all."""
        clients, players, seconds = self.options.clients, self.options.players, self.options.seconds
        yield self.row("pieces, first time", self.made)
        yield self.row("playlists", lambda: self.play([self.playlist], players, seconds))
        yield self.row("pieces", lambda: self.play(self.pieces, players, seconds))
        yield self.row("events", lambda: self.follow(clients, seconds))
        together: list[float] = []

        async def both() -> Sequence[float]:
            events = asyncio.create_task(self.follow(clients, seconds))
            await asyncio.sleep(SETTLE_S)
            together.extend(await self.play(self.pieces, players, seconds, PAUSE_S))
            return await events

        yield self.row("events, with players", both)
        together.sort()
        at = (together[len(together) // 2], together[int(0.99 * (len(together) - 1))])
        print(f"pieces meanwhile: {len(together)}, median {1000 * at[0]:.0f} ms, 99 % {1000 * at[1]:.0f} ms")


async def _as_coroutine(work: Callable[[], Awaitable[Sequence[float]]]) -> Sequence[float]:
    return await work()


@contextmanager
def benched(options: argparse.Namespace) -> Iterator[Bench]:
    """Start the servers and a worker."""
    with tempfile.TemporaryDirectory(prefix="longtake-") as name:
        folder = Path(name)
        redis = RedisProcess(folder)
        settings = Settings(redis_url=redis.url, home=folder, engine=STAND_IN)
        worker = Worker(settings, folder / "worker.log").ready()
        server = Server(settings, folder / "server.log")
        try:
            yield Bench(options, server)
        finally:
            server.stop()
            worker.end()
            redis.stop()


def main() -> None:
    """Measure, and print a row for each kind of answer."""
    options = report.parser(str(__doc__), "fanout")
    options.add_argument("--clients", type=int, default=200, help="connections that read events")
    options.add_argument("--players", type=int, default=50, help="connections that read playlists and pieces")
    options.add_argument("--rate", type=float, default=10.0, help="events a second, each of which all clients get")
    options.add_argument("--seconds", type=float, default=10.0, help="of each row")
    given = options.parse_args()
    with benched(given) as bench:
        report.write("fanout", list(bench.rows()), given.json)


if __name__ == "__main__":
    main()
