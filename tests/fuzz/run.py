"""Fuzzes every target in turn with atheris, for FUZZ_SECONDS in all: `python -m tests.fuzz.run [TARGET ...]`.

A target starts from its corpus, and from what earlier runs found and kept in out/fuzz. An input that shows a fault, or
takes too long or too much memory, is written there as TARGET-crash-..., TARGET-timeout-... or TARGET-oom-... .
"""

from __future__ import annotations

import io
import multiprocessing
import os
import re
import sys
from contextlib import redirect_stderr
from pathlib import Path

import atheris
import safetensors.torch  # noqa: F401 - or each child would import torch

# it prints a line for each module
with redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["blobstore", "ltx2", "tasks"]):
    from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
OUT = Path("out/fuzz")
LONGEST_INPUT = 4096
SLOWEST_S = 10
MEMORY_MB = 2048
SHOWN_LINES = 40

_EXECUTED = re.compile(r"^stat::number_of_executed_units: (\d+)$", re.MULTILINE)


def main() -> int:
    """Fuzz the targets that the arguments name, all by default; 1 if one has a fault."""
    names = sys.argv[1:] or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        sys.exit(f"no such target: {', '.join(sorted(unknown))}; the targets are {', '.join(TARGETS)}")
    seconds = max(1, int(float(os.environ.get("FUZZ_SECONDS", "60")) / len(names)))
    # a child each, because libFuzzer ends its process; forked, because the imports are instrumented already
    context = multiprocessing.get_context("fork")
    faulty = []
    for name in names:
        child = context.Process(target=_fuzz, args=(name, seconds))
        child.start()
        child.join()
        log = _log(name).read_text(errors="replace")
        if child.exitcode:
            faulty.append(name)
            print("\n".join(log.splitlines()[-SHOWN_LINES:]))
        executed = _EXECUTED.search(log)
        inputs = f"{int(executed[1]):,} inputs, " if executed else ""
        print(f"{name}: {inputs}{'a fault' if child.exitcode else 'no fault'}", flush=True)
    if faulty:
        print(f"{OUT} has the inputs. Mend what they show, and add them to {os.path.relpath(CORPUS)}.")
    return 1 if faulty else 0


def _fuzz(name: str, seconds: int) -> None:
    found = OUT / name
    found.mkdir(parents=True, exist_ok=True)
    with _log(name).open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    options = {
        "max_total_time": seconds,
        "max_len": LONGEST_INPUT,
        "timeout": SLOWEST_S,
        "rss_limit_mb": MEMORY_MB,
        "artifact_prefix": f"{OUT}/{name}-",
        "print_final_stats": 1,
        "verbosity": 0,
    }
    arguments = [f"-{option}={value}" for option, value in options.items()]
    atheris.Setup([sys.argv[0], *arguments, str(found), str(CORPUS / name)], TARGETS[name])
    atheris.Fuzz()


def _log(name: str) -> Path:
    return OUT / f"{name}.log"


if __name__ == "__main__":
    sys.exit(main())
