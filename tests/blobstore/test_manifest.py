from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.manifest import Manifest

sizes = st.integers(0, 2**40)
chunk_sizes = st.integers(1, 2**29)


@given(sizes, chunk_sizes, st.text())
def test_a_manifest_comes_back(size: int, chunk_bytes: int, mime: str) -> None:
    manifest = Manifest(size=size, mime=mime, chunk_bytes=chunk_bytes)
    assert Manifest.unpack(manifest.pack()) == manifest


@given(st.integers(0, 5000), st.integers(1, 6000))
def test_chunks_cover_the_blob_once(size: int, chunk_bytes: int) -> None:
    manifest = Manifest(size=size, mime="", chunk_bytes=chunk_bytes)
    spans = [manifest.span(index) for index in range(manifest.chunks)]
    assert [place for span in spans for place in range(span.start, span.stop)] == list(range(size))
    assert all(span.stop - span.start == chunk_bytes for span in spans[:-1])
    assert all(span.stop > span.start for span in spans)


def test_two_uploads_of_the_same_blob_differ() -> None:
    assert Manifest(size=1, mime="", chunk_bytes=1) != Manifest(size=1, mime="", chunk_bytes=1)


@given(st.binary())
def test_any_other_bytes_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a manifest"):
        Manifest.unpack(data)


GOOD = {"size": 1, "mime": "", "chunk_bytes": 1, "upload": "u"}


@pytest.mark.parametrize(
    "lie",
    [
        {"size": -1},
        {"size": 1.5},
        {"size": True},
        {"size": None},
        {"chunk_bytes": 0},
        {"chunk_bytes": "1"},
        {"mime": b""},
        {"upload": 7},
        {"extra": 1},
    ],
    ids=repr,
)
def test_fields_that_cannot_be_are_a_value_error(lie: dict[str, object]) -> None:
    assert Manifest.unpack(msgpack.packb(GOOD))
    with pytest.raises(ValueError, match="not a manifest"):
        Manifest.unpack(msgpack.packb(GOOD | lie))


@pytest.mark.parametrize("value", [[], 7, "text", {1: 2}, None, [GOOD]], ids=repr)
def test_other_values_are_a_value_error(value: object) -> None:
    with pytest.raises(ValueError, match="not a manifest"):
        Manifest.unpack(msgpack.packb(value))
