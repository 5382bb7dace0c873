from __future__ import annotations

import pytest

from blobstore.stored_format import FORMAT, is_newer_major


@pytest.mark.parametrize("version", [None, FORMAT, "0.1", "0.3", "0.10", "0.0"])
def test_readable_versions(version: str | None) -> None:
    assert not is_newer_major(version)


@pytest.mark.parametrize("version", ["1.0", "1.2", "10.0", "2.99"])
def test_newer_major_versions(version: str) -> None:
    assert is_newer_major(version)


@pytest.mark.parametrize(
    "version",
    ["", "0", "1", ".2", "1.", "0.2.1", "v1.0", "1.0 ", "1.0\n", "-1.0", "1.x", "\u0661.0", b"1.0", 1.0, 1, []],
)
def test_malformed_versions_are_a_value_error(version: object) -> None:
    with pytest.raises(ValueError, match="format"):
        is_newer_major(version)
