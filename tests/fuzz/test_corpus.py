"""Replays the corpus of the fuzz targets, without a fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
MOST_BYTES = 4096


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_reads_its_corpus_or_refuses_it_with_its_own_errors(name: str) -> None:
    # Given
    files = sorted((CORPUS / name).iterdir())
    assert any("valid" in file.name for file in files)
    for file in files:
        data = file.read_bytes()
        assert len(data) <= MOST_BYTES, file
        # When / Then
        try:
            TARGETS[name](data)
        except Exception as error:
            error.add_note(f"The input is {file}.")
            raise


def test_every_corpus_has_a_target() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
