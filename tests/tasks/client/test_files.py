"""Files that commands write: whole, and readable by whom the user's umask allows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.client.files import write_new


@pytest.mark.parametrize(("umask", "allowed"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_of_the_umask(tmp_path: Path, umask: int, allowed: int) -> None:
    before = os.umask(umask)
    try:
        write_new(tmp_path / "film.mp4", b"film", overwrite=False)
        write_new(tmp_path / "film.mp4", b"longer", overwrite=True)
    finally:
        os.umask(before)
    [film] = tmp_path.iterdir()
    assert (film.stat().st_mode & 0o777, film.read_bytes()) == (allowed, b"longer")
