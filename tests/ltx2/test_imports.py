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
    # and none that a child needs to decode or encode media imports redis
    lines += ["import ltx2.media.picture_decoder, ltx2.media.clip_process", "assert 'redis' not in sys.modules"]
    lines += ["import blobstore", "assert blobstore.RedisBlobStore and 'redis' in sys.modules"]
    subprocess.run([sys.executable, "-W", "error", "-c", "\n".join(lines)], check=True)
