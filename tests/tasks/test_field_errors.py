"""Text of users where it is shown: one line, short, and without what a terminal acts on."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import SpecError
from tasks.field_errors import HIDDEN_CATEGORIES, JOINERS, counted, escaped, is_shown
from tasks.spec.loader import check_spec


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("harbour at dawn", "harbour at dawn"),
        ("\x1b]0;x\x07\nsegment 9", r"\x1b]0;x\x07\nsegment 9"),
        ("\x9b31m", r"\x9b31m"),
        ("a\r\tb\x7f", r"a\r\tb\x7f"),
        ("\u202egpj.exe\u2066", r"\u202egpj.exe\u2066"),
        ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
        ("\ud800", r"\ud800"),
        ("\ufeff\U000e0041\ue000", r"\ufeff\U000e0041\ue000"),
        # a Persian word with a joiner, a family, a variation selector, wide and non-breaking spaces
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👩\u200d👩\u200d👧 ❤\ufe0f", "👩\u200d👩\u200d👧 ❤\ufe0f"),
        ("東京\u3000夜\u00a0!", "東京\u3000夜\u00a0!"),
        ("x" * 3000, "x" * 2000 + "..."),
    ],
)
def test_what_a_terminal_acts_on_is_an_escape(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_one_thing_has_no_plural() -> None:
    assert [counted(count, "frame") for count in (0, 1, 2, 1200)] == ["0 frames", "1 frame", "2 frames", "1,200 frames"]


@given(st.text())
def test_any_text_is_one_harmless_line(text: str) -> None:
    found = escaped(text, 20)
    assert is_shown(found)
    assert len(found.splitlines()) <= 1
    assert all(one in JOINERS or unicodedata.category(one) not in HIDDEN_CATEGORIES for one in found)


@pytest.mark.parametrize("title", ["👩\u200d👩\u200d👧", "می\u200cخواهم", "東京\u3000夜", "\U0001fae9 new"])
def test_titles_of_every_language_are_fine(title: str) -> None:
    assert check_spec({"title": title, "segments": [{"prompt": "a"}]}).title == title


@pytest.mark.parametrize("title", ["\u202ea", "a\u2066", "a\u061c", "a\nb", "\x1b[1m", "a\u2028", "\ufeffa", "\u00ad"])
def test_titles_with_control_or_format_characters_are_refused(title: str) -> None:
    with pytest.raises(SpecError, match=r"^spec: title: must be one line of printable characters"):
        check_spec({"title": title, "segments": [{"prompt": "a"}]})
