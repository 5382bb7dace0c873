"""Limits of specs: what is too large is refused before the work, and errors stay short."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ltx2.processes import python_path
from tasks.client.submissions.state_files import read_state
from tasks.errors import SpecError
from tasks.spec.loader import MAX_SPEC_BYTES, check_spec, load_spec, parse_spec

MB = 1 << 20
SEGMENT = {"segments": [{"prompt": "a"}]}

HUGE = {
    "many segments": json.dumps({"segments": [{"prompt": "a"}] * 60_000}),
    "bad segments": json.dumps({"segments": [{"promt": 1}] * 60_000}),
    "numbers as segments": '{"segments": [' + "0," * (MB // 2) + "0]}",
    "bad keys": '{"segments": [{' + ",".join(f'"{i:x}": 0' for i in range(MB // 9)) + "}]}",
    "bad LoRAs": '{"loras": [' + "{}," * (MB // 3) + '0], "segments": [{"prompt": "a"}]}',
    "bad sigmas": '{"sigmas": [' + '"",' * (MB // 3) + '0], "segments": [{"prompt": "a"}]}',
    "colons": "seed: " + "1:" * (MB // 2) + "1\nsegments: [{prompt: a}]",
    "digits": "seed: " + "1" * MB,
    "brackets": "[" * MB,
    "braces": "{" * MB,
    "dashes": "- " * (MB // 2),
    "question marks": "? " * (MB // 2),
    "tag directives": "".join(f"%TAG !{i}! x\n" for i in range(MB // 14)) + "--- a",
    "anchors": "&a " * (MB // 3),
    "lines": "segments:" + "\n" * MB + " []",
    "escapes": '{"title": "' + "\\u0041" * (MB // 6) + '"}',
}


def _within_limits() -> None:
    """Read all of HUGE with 500 MB more than the modules need, and 2 s of processor time each."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + 500 * MB
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    seconds = 2 * len(HUGE)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    for text in HUGE.values():
        try:
            parse_spec(text)
            print("a spec")
        except SpecError as error:
            print(len(str(error).splitlines()), max(map(len, str(error).splitlines())))


def test_a_megabyte_costs_neither_much_time_nor_memory() -> None:
    # When a process with limits reads texts that ask for as much as possible
    command = [sys.executable, "-c", "from tests.tasks.spec.test_limits import _within_limits; _within_limits()"]
    environ = os.environ | {"PYTHONPATH": python_path()}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False, timeout=200)
    # Then it survives, and every error is short
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(HUGE)
    assert lines[0] == "a spec"
    assert all(int(count) <= 11 and int(length) < 300 for count, length in map(str.split, lines[1:]))


def test_ten_problems_are_listed_and_the_others_counted() -> None:
    for count, last in ((11, "spec: and 1 more problem"), (1510, "spec: and 1,500 more problems")):
        with pytest.raises(SpecError) as error:
            check_spec({"segments": [{}] * count})
        lines = str(error.value).splitlines()
        assert (len(lines), lines[9], lines[10]) == (11, "spec: segments.9.prompt: missing", last)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"segments": [{"prompt": "a" * 8000}] * 525}, "segments: their prompts have 4,200,000 characters, more than"),
        ({"segments": [{"prompt": "a"}] * 100_001}, "segments: must have at most 100000 entries, not 100001"),
        ({"width": 4096, "height": 4096, "overlap": 9}, "overlap: overlap 9 is too many frames of 4096x4096"),
        ({"fps": True}, "fps: must be a number, not true"),
        ({"fps": "24"}, "fps: must be a number, not '24'"),
        ({"fps": 10**400}, "fps: must be"),
        ({"sigmas": [True, 0.5]}, "sigmas.0: must be a number, not true"),
        ({"loras": [{"path": "a", "weight": True}]}, "loras.0.weight: must be a number, not true"),
    ],
)
def test_what_is_too_large_or_no_number_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        check_spec({**SEGMENT, **data})
    assert str(error.value).startswith(f"spec: {message}")


def test_only_regular_files_of_limited_size_are_read(tmp_path: Path) -> None:
    # Given a file that is too large, a pipe, a device, a socket's folder and a name with an escape
    (tmp_path / "large").write_bytes(b" " * (MAX_SPEC_BYTES + 1))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, message in (
        ("large", "larger than 4,194,304 bytes, the limit for a spec"),
        ("pipe", "not a regular file"),
        ("zero", "not a regular file"),
        ("", "Is a directory"),
        ("a\0", "not the name of a file"),
        ("\x1b[1m", "No such file or directory; `longtake init` writes a spec to start from"),
    ):
        # Then each is refused without being read
        with pytest.raises(SpecError) as error:
            load_spec(tmp_path / name)
        assert str(error.value).endswith(message)
        assert str(error.value).isprintable()
    for name in ("pipe", "zero"):
        with pytest.raises(SpecError, match="not a regular file"):
            read_state(tmp_path / name)
