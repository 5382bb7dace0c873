"""Ids and owners never lead to keys outside the prefix of a store."""

from __future__ import annotations

import pytest

from blobstore import BlobNotFoundError, open_blob_store
from blobstore.protocol import blob_id_of, hex_of
from tests.blobstore.conftest import RedisServer

REAL = hex_of(blob_id_of(b"kept"))
HOSTILE = [
    *("", "*", "sha256:", "sha256:*", "../other:secret", "sha256:../../other:secret", "owner:a", REAL),
    *(f"sha256:{REAL}\n", f"sha256:{REAL[1:]}*", f"sha256:{REAL}{REAL}", f"SHA256:{REAL}", f"sha256:{REAL.upper()}"),
    *("sha256:" + "\u0660" * 64, f"sha256:{REAL[2:]}\0\0", "x" * 100_000, "\ud800"),
]


@pytest.mark.parametrize("blob_id", HOSTILE, ids=lambda blob_id: ascii(blob_id)[:40])
def test_a_hostile_id_names_no_blob(server: RedisServer, blob_id: str) -> None:
    # Given foreign keys on the server of a store
    server.client.mset({"other:secret": "1", "sha256:": "2", "owner:a": "3"})
    store = open_blob_store(server.url, prefix="p:")
    kept = store.put(b"kept", owner="a")
    before = sorted(server.client.keys("*"))
    # When / Then
    assert blob_id not in store
    for read in (store.get, store.info, lambda hostile: store.pin([kept, hostile], "a")):
        with pytest.raises(BlobNotFoundError):
            read(blob_id)
    store.drop(blob_id)
    assert sorted(server.client.keys("*")) == before
    assert store.get(kept) == b"kept"


@pytest.mark.parametrize("owner", ["*", "a*", "../other:secret", "a:b", "", "a\nb", "[a]", "x" * 1000])
def test_a_hostile_owner_changes_only_its_own_keys(server: RedisServer, owner: str) -> None:
    # Given
    server.client.mset({"other:secret": "1", "other:owner:a": "2"})
    store = open_blob_store(server.url, prefix="p:")
    kept = store.put(b"kept", owner="a")
    # When
    own = store.put(b"own", owner=owner)
    store.pin([own], owner)
    # Then
    assert {key[:2] for key in server.client.keys("*")} == {b"p:", b"ot"}
    assert sorted(store.owners()) == sorted(["a", owner])
    assert store.release(owner) == 1
    assert store.pins("a") == {kept}
    assert server.client.mget("other:secret", "other:owner:a") == [b"1", b"2"]
