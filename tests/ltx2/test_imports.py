"""Importing what a process without a model needs."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    *("ltx2", "ltx2.state.arrays", "ltx2.timeline", "ltx2.sampling", "ltx2.request"),
    *("ltx2.checkpoints.variant", "ltx2.checkpoints.resolve"),
)


def test_modules_that_need_no_model_do_not_import_torch() -> None:
    lines = ["import sys", *(f"import {name}; assert 'torch' not in sys.modules, {name!r}" for name in MODULES)]
    subprocess.run([sys.executable, "-W", "error", "-c", "\n".join(lines)], check=True)
