from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.manifest import Manifest, NewerManifestError
from blobstore.stored_format import FORMAT

sizes = st.integers(0, 2**40)
chunk_sizes = st.integers(1, 2**29)


@given(sizes, chunk_sizes, st.text())
def test_unpack_reverses_pack(size: int, chunk_bytes: int, mime: str) -> None:
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
    "change",
    [
        {"size": -1},
        {"size": 1.5},
        {"size": True},
        {"size": None},
        {"chunk_bytes": 0},
        {"chunk_bytes": "1"},
        {"mime": b""},
        {"upload": 7},
        *({"format": version} for version in ("", "0", "1.", "0.2.1", "v1.0", " 0.2", "-1.0", "1.0\n", b"1.0", 1.0, 2)),
    ],
    ids=repr,
)
def test_invalid_fields_are_a_value_error(change: dict[str, object]) -> None:
    assert Manifest.unpack(msgpack.packb(GOOD))
    with pytest.raises(ValueError, match="not a manifest"):
        Manifest.unpack(msgpack.packb(GOOD | change))


@pytest.mark.parametrize("name", GOOD)
def test_missing_fields_are_a_value_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"not a manifest: '{name}' is missing"):
        Manifest.unpack(msgpack.packb({key: value for key, value in GOOD.items() if key != name}))


def test_the_format_is_stored() -> None:
    assert msgpack.unpackb(Manifest(**GOOD).pack()) == {"format": FORMAT, **GOOD}


def test_a_manifest_of_0_1_is_read() -> None:
    # the bytes that 0.1 wrote
    golden = b"\x84\xa4size!\xa4mime\xa9image/png\xabchunk_bytes\n\xa6upload\xd9 0123456789abcdef0123456789abcdef"
    assert Manifest.unpack(golden) == Manifest(33, "image/png", 10, "0123456789abcdef0123456789abcdef")


@pytest.mark.parametrize("more", [{"extra": 1}, {"format": "0.3", "extra": 1}, {"format": "0.99"}, {"format": "0.1"}])
def test_unknown_keys_and_newer_minor_versions_are_read(more: dict[str, object]) -> None:
    assert Manifest.unpack(msgpack.packb(GOOD | more)) == Manifest(**GOOD)


@pytest.mark.parametrize("others", [GOOD, {}, {"size": "ten"}], ids=repr)
def test_a_newer_major_version_is_not_read(others: dict[str, object]) -> None:
    with pytest.raises(NewerManifestError):
        Manifest.unpack(msgpack.packb(others | {"format": "1.0"}))


@pytest.mark.parametrize("value", [[], 7, "text", {1: 2}, None, [GOOD]], ids=repr)
def test_other_values_are_a_value_error(value: object) -> None:
    with pytest.raises(ValueError, match="not a manifest"):
        Manifest.unpack(msgpack.packb(value))
