"""Text of users on terminals and in logs: escapes do nothing, lines cannot be forged, any encoding will do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tasks.cli.command import main
from tasks.client.submit import submit
from tasks.errors import JobFailedError
from tasks.field_errors import is_shown
from tasks.settings import Settings
from tests.conftest import Worker, environment

ESCAPE = "\x1b]0;owned\x07\x9b31m"
TITLE = "👩\u200d👧 می\u200cخواهم"


def run(settings: Settings, encoding: str, *arguments: str) -> tuple[str, str]:
    """Standard output and error of a command on a terminal with this encoding."""
    environ = environment(settings) | {"PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "tasks.cli", *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, timeout=60, check=False)
    return done.stdout.decode(encoding), done.stderr.decode(encoding)


def called(settings: Settings, encoding: str, *arguments: str) -> tuple[str, str]:
    """As `run`, in this process."""
    done = CliRunner(charset=encoding).invoke(main, arguments, env=environment(settings))
    return done.stdout, done.stderr


def test_text_of_a_user_is_only_shown(
    module_settings: Settings, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    # Given a finished job whose prompt has an escape and a forged line, and one that fails with them in its reason
    shape = {"width": 64, "height": 32, "frames": 17}
    forged = f"a{ESCAPE}\n  segment 9  0.1 s  seed 0  forged\n[2026: INFO/MainProcess] forged"
    done = submit({**shape, "title": TITLE, "segments": [{"prompt": forged * 10}]}, settings=module_settings)
    bad = submit({**shape, "loras": [{"path": forged}], "segments": [{"prompt": "a"}]}, settings=module_settings)
    worker = start_worker(module_settings)
    done.wait()
    with pytest.raises(JobFailedError):
        bad.wait()
    # When the operator looks at them, on a terminal that has no emoji
    commands = (run, "list"), (called, "status", done.id), (called, "status", bad.id), (called, "watch", bad.id)
    for how, *arguments in commands:
        lines = [line for text in how(module_settings, "latin-1", *arguments) for line in text.split("\n")]
        # Then no escape reaches the terminal, no line is forged, and nothing fails
        assert all(is_shown(line) for line in lines), arguments
        assert not [line for line in lines if line.startswith(("  segment 9", "[2026"))]
        assert max(map(len, lines)) < 3000
        assert "Traceback" not in "".join(lines)
    assert TITLE in called(module_settings, "utf-8", "list")[0]
    # And JSON is whole there, too
    assert json.loads(called(module_settings, "latin-1", "status", done.id, "--json")[0])["title"] == TITLE
    # And the worker's log has neither
    log = worker.log.read_text()
    assert "forged" in log
    assert all(is_shown(line) for line in log.split("\n"))
    assert not [line for line in log.split("\n") if line.startswith("[2026:")]
