"""Child processes of this package."""

from __future__ import annotations

import os
from pathlib import Path


def python_path() -> str:
    """A PYTHONPATH with which another process imports the same packages as this one, installed or not."""
    inherited = os.environ.get("PYTHONPATH")
    packages = str(Path(__file__).resolve().parents[1])
    return f"{packages}{os.pathsep}{inherited}" if inherited else packages
