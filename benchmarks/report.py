"""Output of a benchmark: a printed table, and a JSON file with the machine and the versions.

rows = [{"size": "1280x704", "encode ms": 31.2}, ...]   # one dict per line of the table, all with the same keys
report.write("codec", rows, options.json)               # prints the table, writes out/codec.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "pillow", "torch", "diffusers", "transformers", "celery", "redis", "isal", "av")
OUT = Path("out")


def parser(description: str, name: str) -> argparse.ArgumentParser:
    """A parser with `--json PATH`, by default out/NAME.json, and the first line of `description` as its help."""
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--json", type=Path, default=OUT / f"{name}.json", metavar="PATH", help="file for the figures")
    return made


def write(name: str, rows: Sequence[Mapping[str, Any]], path: Path, **more: Any) -> None:
    """Print `rows` as a table, and save them."""
    print(table(rows))
    save(name, rows, path, **more)
    print(f"figures: {path}")


def save(name: str, rows: Sequence[Mapping[str, Any]], path: Path, **more: Any) -> None:
    """Write `rows` to `path` with `about()` and the values in `more`: also those so far, in case that it is cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"benchmark": name, **about(), **more, "rows": list(rows)}, indent=2) + "\n")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """`rows` as a Markdown table with the first row's keys as columns, numbers right-aligned, floats with 3 digits."""
    head = list(rows[0])
    body = [[shown(row.get(key)) for key in head] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(head, *body, strict=True)]
    right = [all(isinstance(row.get(key), int | float | None) for row in rows) for key in head]
    rule = ["-" * (width - 1) + (":" if to_right else "-") for width, to_right in zip(widths, right, strict=True)]
    lines = [
        [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ]
        for line in [head, rule, *body]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: Any) -> str:
    """`value` as text for the table: 3 digits of a float, empty for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def about() -> dict[str, Any]:
    """The machine, the versions and the command."""
    found = {package: version(package) for package in PACKAGES}
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": gpu(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {package: number for package, number in found.items() if number},
    }


def cpu() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def gpu() -> str | None:
    """The first CUDA device, if the benchmark has loaded torch and there is one."""
    torch = sys.modules.get("torch")
    return str(torch.cuda.get_device_name(0)) if torch is not None and torch.cuda.is_available() else None


def version(package: str) -> str | None:
    """The installed version of `package`."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def in_turn(
    candidates: Mapping[str, Callable[[], object]], rounds: int, *, before: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each candidate in each round. All candidates run in every round, so that noise affects all equally.

    before: called before each, not timed.
    """
    took: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            before()
            began = time.perf_counter()
            run()
            took[name].append(time.perf_counter() - began)
    return took


def median_ms(seconds: Sequence[float]) -> float:
    """The median of `seconds`, in milliseconds."""
    return statistics.median(seconds) * 1000
