"""Clips of the child process: the same bytes, also after it died; and it never outlives its parent."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import psutil
import pytest

from ltx2.errors import MediaError
from ltx2.media import clip_process
from ltx2.media.clip import encode_clip
from ltx2.media.clip_process import ClipProcess
from tests.conftest import wait_until

RATE = 24000
TIMES: dict[str, Any] = {"fps": Fraction(24000, 1001), "audio_rate": RATE, "picture_start": Fraction(9, 24)}
OUTLIVED = """
import sys, numpy as np
from ltx2.media import clip_process
from tests.ltx2.media.test_clip_process import TIMES, arrays
clip_process.SMALLEST_BYTES = 0
clips = clip_process.ClipProcess()
clips.encode(*arrays(3), **TIMES)
print(clips._child.pid, flush=True)
clips.encode(*arrays(2000), **TIMES)
"""


def arrays(count: int, seed: int = 0) -> tuple[Any, Any]:
    """Noisy frames that are part of larger ones, and sound."""
    random = np.random.default_rng(seed)
    frames = random.integers(0, 255, (count + 1, 70, 100, 3), np.uint8)[1:, 3:67, 2:98]
    return frames, random.uniform(-1, 1, (6000, 2)).astype(np.float32)


@pytest.fixture
def clips(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClipProcess]:
    monkeypatch.setattr(clip_process, "SMALLEST_BYTES", 0)
    made = ClipProcess()
    yield made
    made.close()


def children() -> list[psutil.Process]:
    found = psutil.Process().children()
    return [child for child in found if clip_process._MODULE in child.cmdline()]


def test_a_child_encodes_the_same_bytes_clip_after_clip(clips: ClipProcess) -> None:
    # Given clips of several lengths
    for count in (7, 3, 12):
        # When / Then
        given = arrays(count, seed=count)
        assert clips.encode(*given, **TIMES) == encode_clip(*given, **TIMES)
    assert len(children()) == 1


def test_a_clip_that_cannot_be_encoded_is_an_error_and_the_next_one_is_encoded(clips: ClipProcess) -> None:
    frames, sound = arrays(3)
    with pytest.raises(MediaError, match="frames: must be one or more of even size"):
        clips.encode(frames[:, 1:], sound, **TIMES)
    assert clips.encode(frames, sound, **TIMES) == encode_clip(frames, sound, **TIMES)


def test_a_clip_is_made_again_if_the_child_is_killed_before_or_while_it_encodes(clips: ClipProcess) -> None:
    # Given a child that has ended
    given = arrays(3)
    expected = encode_clip(*given, **TIMES)
    clips.encode(*given, **TIMES)
    first = children()[0]
    first.kill()
    # When / Then
    assert clips.encode(*given, **TIMES) == expected
    # Given one that encodes a long clip
    long, made = arrays(400), list[bytes]()
    thread = threading.Thread(target=lambda: made.append(clips.encode(*long, **TIMES)))
    second = children()[0]
    before = second.cpu_times().user
    thread.start()
    wait_until(lambda: second.cpu_times().user > before + 0.05, what="an encoder at work")
    # When
    second.kill()
    thread.join()
    # Then
    assert made == [encode_clip(*long, **TIMES)]
    assert second not in children()


def test_a_child_that_always_dies_is_an_error(clips: ClipProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_process, "_MODULE", "ltx2.media.no_such_module")
    with pytest.raises(MediaError, match=r"cannot encode the clip: its process ended 2 times, the last time with 1$"):
        clips.encode(*arrays(3), **TIMES)


def test_few_bytes_are_encoded_here() -> None:
    given = arrays(3)
    assert ClipProcess().encode(*given, **TIMES) == encode_clip(*given, **TIMES)
    assert not children()


def test_the_child_ends_with_its_parent_even_while_it_encodes() -> None:
    # Given a process whose child encodes a long clip
    parent = subprocess.Popen([sys.executable, "-c", OUTLIVED], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    before = child.cpu_times().user
    wait_until(lambda: child.cpu_times().user > before + 0.05, what="an encoder at work")
    # When
    parent.kill()
    parent.communicate()
    # Then
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, what="the end of the child")
