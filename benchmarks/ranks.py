"""Two segments on several GPUs, a follower that is killed in the third, and the same two segments in new processes.

    python benchmarks/ranks.py [--gpus 2] [--engine benchmarks.full:FullSizeEngine] [--size 768x512] [--frames 121]

Checks what the fault tests cannot check on a CPU: exchanges of a GPU that wait for a killed rank end, and so does the
call, and a new process renders the same bytes. Random weights by default (see benchmarks/full.py). Exits with 1 if a
segment differs, or the fault is not reported. stuck: the call did not end, so that the process had to. It needs no
servers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

from benchmarks import report
from ltx2.errors import RankError
from ltx2.group.leader import GroupEngine, RankGroup
from ltx2.request import SegmentRequest
from ltx2.timeline import SegmentShape, SegmentTiming, exact, first_timing, next_timing

KILLED_AFTER = 3  # steps
TIMEOUT_S = 120.0


def main() -> None:
    """Run it twice: each time in a process of its own, the first of which ends with a fault."""
    parser = report.parser(__doc__ or "", "ranks")
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--engine", default="benchmarks.full:FullSizeEngine")
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--size", default="768x512", metavar="WxH")
    parser.add_argument("--frames", type=int, default=121)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run = Run(options)
        run.render()
        run.end()
    command = [sys.executable, __file__, "--child", *sys.argv[1:]]
    digests, rows = [], list[dict[str, Any]]()
    for number in range(2):
        printed = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        found = json.loads(printed.splitlines()[-1])
        digests.append(found.pop("digests"))
        rows.append({"run": number, **found})
        print(report.table(rows[-1:]), flush=True)
        report.save("ranks", rows, options.json, gpus=options.gpus, digests=digests)
    same = digests[0] == digests[1]
    report.write("ranks", rows, options.json, gpus=options.gpus, digests=digests, same=same)
    print(f"the segments of both runs are {'the same' if same else 'DIFFERENT'}")
    sys.exit(0 if same and all(row["fault"] for row in rows) else 1)


class Run:
    """Two segments, and a third in which a follower is killed. found: the figures so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.found: dict[str, Any] = {"digests": []}
        self._options = options
        self._killed_at = 0.0

    def render(self) -> None:
        """Find all figures. If the process cannot leave the last call, it ends there, as a worker's child does."""
        options, found = self._options, self.found
        began = time.perf_counter()
        group = RankGroup(options.gpus, options.device, timeout_s=TIMEOUT_S, on_stuck=self._end_stuck)
        found["start s"] = time.perf_counter() - began
        began = time.perf_counter()
        settings = {"precision": options.precision, "offload": "none", "text_encoder": "auto", "compiler": "auto"}
        engine = group.load(options.engine, options.model, **settings)
        found["load s"] = time.perf_counter() - began
        first = first_timing(SegmentShape(options.frames, exact(24)))
        second = next_timing(first)
        began = time.perf_counter()
        engine.warm_up(request(options, first))
        found["warm s"] = time.perf_counter() - began
        state = None
        for number, timing in enumerate((first, second)):
            began = time.perf_counter()
            output = engine.run(request(options, timing), state)
            found[f"segment {number} s"] = time.perf_counter() - began
            state = output.state
            found["digests"].append(hashlib.sha256(output.frames.tobytes() + output.sound.tobytes()).hexdigest())
        self._find_fault(engine, request(options, next_timing(second)), state)

    def _find_fault(self, engine: GroupEngine, wanted: SegmentRequest, state: Any) -> None:
        """What comes of a segment during which a follower is killed, and the seconds until it does."""

        def kill(step: int, _: int) -> None:
            if step == KILLED_AFTER:
                self._killed_at = time.perf_counter()
                followers = [one for one in psutil.Process().children() if "ltx2.group.follower" in one.cmdline()]
                followers[-1].kill()

        self._note_fault("")
        try:
            engine.run(wanted, state, on_step=kill)
        except RankError as error:
            self._note_fault(str(error))

    def _note_fault(self, fault: str, *, stuck: bool = False) -> None:
        seconds = time.perf_counter() - self._killed_at if fault else 0.0
        self.found |= {"fault": fault, "fault s": seconds, "stuck": stuck}

    def _end_stuck(self, reason: str) -> None:
        """A call did not end although its exchanges were aborted: a GPU waits for what the killed rank would send."""
        self._note_fault(reason, stuck=True)
        self.end()

    def end(self) -> None:
        """End as a worker's child does: after a fault, the GPU of this process may be unusable."""
        print(json.dumps(self.found), flush=True)
        os._exit(0)


def request(options: argparse.Namespace, timing: SegmentTiming) -> SegmentRequest:
    """A segment of the chain."""
    width, height = (int(side) for side in options.size.split("x"))
    return SegmentRequest("a boat leaves the harbour", timing.index, width, height, timing)


if __name__ == "__main__":
    main()
