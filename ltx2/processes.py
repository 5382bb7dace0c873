"""Child processes of this package."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Send this process the signal `number` when its parent ends; only on Linux."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, int(number))


def python_path() -> str:
    """A PYTHONPATH with which another process imports the same packages as this one, installed or not."""
    inherited = os.environ.get("PYTHONPATH")
    packages = str(Path(__file__).resolve().parents[1])
    return f"{packages}{os.pathsep}{inherited}" if inherited else packages
