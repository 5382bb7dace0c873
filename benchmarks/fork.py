"""What a fork costs: segments that are rendered again, and bytes that are stored again.

    python benchmarks/fork.py [--segments 50] [--after 40]

The program starts a server and a worker with the stand-in engine, renders a film, and forks it while no worker runs.
Then a worker renders the rest, with another seed. Renders and clips are counted by the events of the fork, bytes by the
blobs that it alone pins.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `tests`

from benchmarks import report
from blobstore import open_blob_store
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.jobs.connection import connect
from tasks.jobs.events import BEGINNING, EventKind, EventReader
from tasks.settings import Settings
from tests.conftest import STAND_IN, RedisProcess, Worker
from tests.tasks.conftest import spec


def main() -> None:
    parser = report.parser(str(__doc__), "fork")
    parser.add_argument("--segments", type=int, default=50)
    parser.add_argument("--after", type=int, default=40, help="the last segment that is shared")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="longtake-") as folder:
        server = RedisProcess(Path(folder))
        try:
            settings = Settings(redis_url=server.url, home=Path(folder), engine=STAND_IN)
            rows = measured(settings, Path(folder), options.segments, options.after)
        finally:
            server.stop()
    report.write("fork", rows, options.json, segments=options.segments, after=options.after)


def measured(settings: Settings, folder: Path, segments: int, after: int) -> list[dict[str, Any]]:
    """Rows about a fork of a film of so many segments."""
    first = Worker(settings, folder / "first.log").ready()
    with submit(spec(*map(str, range(segments))), settings=settings) as job:
        job.wait()
        first.stop()
        before = bytes_of(settings, job)
        with job.fork(after, spec(*map(str, range(segments)), seed=9)) as fork:
            stored = bytes_of(settings, fork, without=job)
            second = Worker(settings, folder / "second.log").ready()
            fork.wait()
            second.stop()
            own = bytes_of(settings, fork, without=job)
            found = {kind: counted(settings, fork, kind, after) for kind in (EventKind.LOADING, EventKind.CLIP)}
    shared, rest = f"segments 0 to {after}", f"segments {after + 1} to {segments - 1}"
    return [
        {"what": "segments rendered by the fork", "of": shared, "value": found[EventKind.LOADING][True]},
        {"what": "segments rendered by the fork", "of": rest, "value": found[EventKind.LOADING][False]},
        {"what": "clips encoded by the fork", "of": shared, "value": found[EventKind.CLIP][True]},
        {"what": "bytes of the first job", "of": f"segments 0 to {segments - 1}", "value": before},
        {"what": "bytes stored by the fork before it renders", "of": shared, "value": stored},
        {"what": "bytes stored by the fork in the end", "of": f"{rest}, and its film", "value": own},
    ]


def counted(settings: Settings, job: Job, kind: EventKind, after: int) -> Counter[bool]:
    """The events of a kind by whether they are about a shared segment."""
    with connect(settings.redis_url) as client:
        events = EventReader(client).after(BEGINNING, job_id=job.id, count=100_000)
    return Counter(event.data["segment"] <= after for event in events if event.kind == kind)


def bytes_of(settings: Settings, job: Job, *, without: Job | None = None) -> int:
    """The bytes of the blobs that a job pins, without those that another one pins, too."""
    with closing(open_blob_store(settings.blobs)) as blobs:
        others = set() if without is None else blobs.pins(without.id)
        return sum(blobs.info(blob_id).size for blob_id in blobs.pins(job.id) - others)


if __name__ == "__main__":
    main()
