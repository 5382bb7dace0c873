"""Two segments on several GPUs, a follower that is killed in the third, and the same two segments in new processes.

    python benchmarks/ranks.py [--gpus 2] [--engine benchmarks.full:FullSizeEngine] [--size 768x512] [--frames 121]

Checks what the fault tests cannot check on a CPU: exchanges of a GPU that wait for a killed rank end, and so does the
call, and a new process renders the same bytes. Random weights by default (see benchmarks/full.py). Exits with 1 if a
segment differs, or the fault is not reported. It needs no servers.
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
        print(json.dumps(render(options)))
        os._exit(0)  # as a worker's child ends; after a fault, the GPU of this process may be unusable
    command = [sys.executable, __file__, "--child", *sys.argv[1:]]
    runs = [json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout) for _ in range(2)]
    rows = [{"run": number, **{key: run[key] for key in run if key != "digests"}} for number, run in enumerate(runs)]
    same = runs[0]["digests"] == runs[1]["digests"]
    report.write("ranks", rows, options.json, gpus=options.gpus, same=same)
    print(f"the segments of both runs are {'the same' if same else 'DIFFERENT'}")
    sys.exit(0 if same and all(run["fault"] for run in runs) else 1)


def render(options: argparse.Namespace) -> dict[str, Any]:
    """Two segments, and a third in which a follower is killed."""
    began = time.perf_counter()
    group = RankGroup(options.gpus, options.device, timeout_s=TIMEOUT_S, on_stuck=stuck)
    found: dict[str, Any] = {"start s": time.perf_counter() - began}
    began = time.perf_counter()
    settings = {"precision": options.precision, "offload": "none", "text_encoder": "auto", "compiler": "auto"}
    engine = group.load(options.engine, options.model, **settings)
    found["load s"] = time.perf_counter() - began
    first = first_timing(SegmentShape(options.frames, exact(24)))
    second = next_timing(first)
    began = time.perf_counter()
    engine.warm_up(request(options, first))
    found["warm s"] = time.perf_counter() - began
    digests, state = [], None
    for number, timing in enumerate((first, second)):
        began = time.perf_counter()
        output = engine.run(request(options, timing), state)
        found[f"segment {number} s"] = time.perf_counter() - began
        state = output.state
        digests.append(hashlib.sha256(output.frames.tobytes() + output.sound.tobytes()).hexdigest())
    return found | {"digests": digests, **fault(engine, request(options, next_timing(second)), state)}


def fault(engine: GroupEngine, wanted: SegmentRequest, state: Any) -> dict[str, Any]:
    """What comes of a segment during which a follower is killed, and the seconds until it does."""
    killed_at = 0.0

    def kill(step: int, _: int) -> None:
        nonlocal killed_at
        if step == KILLED_AFTER:
            killed_at = time.perf_counter()
            followers = [one for one in psutil.Process().children() if "ltx2.group.follower" in one.cmdline()]
            followers[-1].kill()

    try:
        engine.run(wanted, state, on_step=kill)
    except RankError as error:
        return {"fault": str(error), "fault s": time.perf_counter() - killed_at}
    return {"fault": "", "fault s": 0.0}


def stuck(reason: str) -> None:
    """A call did not end although its exchanges were aborted; a worker then ends this process."""
    print(f"STUCK, the process has to end: {reason}", file=sys.stderr, flush=True)
    os._exit(3)


def request(options: argparse.Namespace, timing: SegmentTiming) -> SegmentRequest:
    """A segment of the chain."""
    width, height = (int(side) for side in options.size.split("x"))
    return SegmentRequest("a boat leaves the harbour", timing.index, width, height, timing)


if __name__ == "__main__":
    main()
