from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import blobstore
from blobstore import BlobNotFoundError, BlobStoreConfigError, BlobStoreError, blob_id_of, is_blob_id
from blobstore.protocol import hex_of, id_of_hex


@given(st.binary())
def test_an_id_is_the_hash_of_the_bytes(data: bytes) -> None:
    blob_id = blob_id_of(data)
    assert blob_id == "sha256:" + hashlib.sha256(data).hexdigest()
    assert is_blob_id(blob_id)
    assert id_of_hex(hex_of(blob_id)) == blob_id


@given(st.text() | st.none() | st.integers() | st.binary())
def test_nothing_else_is_an_id(thing: object) -> None:
    assert not is_blob_id(thing)


@pytest.mark.parametrize("name", [name for name in blobstore.__all__ if name.endswith("Error")])
def test_errors_are_one_tree(name: str) -> None:
    assert issubclass(getattr(blobstore, name), BlobStoreError)


def test_errors_have_the_usual_python_bases() -> None:
    assert issubclass(BlobNotFoundError, KeyError)
    assert issubclass(BlobStoreConfigError, ValueError)
    assert str(BlobNotFoundError("no such blob: x")) == "no such blob: x"


def test_the_package_imports_nothing_heavy() -> None:
    code = "import blobstore, blobstore.testing.conformance, sys; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "PIL", "celery", "pytest", "tasks", "ltx2"} & set(modules)
