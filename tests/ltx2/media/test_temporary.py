"""Temporary files and folders: what a killed process leaves is deleted, what a living one uses is not."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ltx2.media.clip import encode_clip
from ltx2.media.film import join_film
from ltx2.media.temporary import delete_abandoned, partial_file, temporary_folder
from ltx2.timeline import SegmentShape, plan

FOLDER_USER = """
import sys
from ltx2.media.temporary import temporary_folder
with temporary_folder("longtake-test-") as folder:
    (folder / "film.part").write_text("half")
    print(folder, flush=True)
    sys.stdin.read()
"""
JOINER = """
import sys
from pathlib import Path
from fractions import Fraction
from ltx2.media.film import join_film
from ltx2.timeline import SegmentShape, plan
def clips():
    yield Path(sys.argv[1]).read_bytes()
    print("half", flush=True)
    sys.stdin.read()
join_film(clips(), plan(SegmentShape(17, Fraction(24)), [False] * 2), Path(sys.argv[2]))
"""


@contextmanager
def running(code: str, *arguments: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that runs `code`, and the first line that it writes."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_only_the_folder_of_a_killed_process_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given the folders of a killed process and of a living one, and a folder of something else
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "longtake-other").mkdir()
    with running(FOLDER_USER) as (living, used), running(FOLDER_USER) as (killed, left):
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert Path(left, "film.part").exists()
        # When the next process begins
        with temporary_folder("longtake-test-") as folder:
            # Then the folder of the killed process is gone
            assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "longtake-other", Path(used), folder])
        assert not folder.exists()
        living.communicate()
    assert list(tmp_path.iterdir()) == [tmp_path / "longtake-other"]
    # And a folder of temporary files that a cleaner has deleted is made again
    shutil.rmtree(tmp_path)
    with temporary_folder("longtake-test-") as folder:
        assert folder.parent == tmp_path


def test_a_killed_join_leaves_nothing_after_the_next_one(tmp_path: Path) -> None:
    # Given a process that was killed while it joined a film, and one that still joins it
    timings = plan(SegmentShape(17, Fraction(24)), [False])
    frames, sound = np.zeros((17, 32, 32, 3), np.uint8), np.zeros((24_000, 1), np.float32)
    clip = encode_clip(frames, sound, fps=Fraction(24), audio_rate=24_000, picture_start=timings[0].picture_start)
    first, film = tmp_path / "first", tmp_path / f"{'f' * 251}.mp4"
    first.write_bytes(clip)
    with running(JOINER, first, film) as (killed, _), running(JOINER, first, film):
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert len(list(tmp_path.glob(".*.part"))) == 2
        # When it is joined again
        join_film([clip], timings, film)
        # Then only what the living process writes is left next to it
        assert len(list(tmp_path.glob(".*.part"))) == 1
        assert film.exists()


def test_links_and_files_of_other_targets_are_left_alone(tmp_path: Path) -> None:
    # Given a link with the name of an abandoned folder
    (tmp_path / "kept").mkdir()
    (tmp_path / "longtake-test-link").symlink_to(tmp_path / "kept")
    # When
    delete_abandoned("longtake-test-", tmp_path)
    # Then
    assert (tmp_path / "kept").exists()
    # And a partial file does not disturb that of another target
    with partial_file(tmp_path / "a.mp4") as one, partial_file(tmp_path / "b.mp4") as other:
        assert one.exists()
        assert other.exists()
