"""Texts are normalized, so that equal texts are recognized."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retllm.errors import MediaRejected, TooLarge
from retllm.media.texts import clean_text, read_text, text_sha256
from retllm.settings import Settings

SETTINGS = Settings(max_text_chars=200)


def test_line_ends_byte_order_marks_spaces_and_unicode_forms_are_normalized() -> None:
    forms = ["caf\u00e9\nbar", "\ufeffcafe\u0301\r\nbar", "  caf\u00e9\rbar\n\n"]
    assert {clean_text(form, SETTINGS) for form in forms} == {"caf\u00e9\nbar"}
    assert text_sha256("caf\u00e9\nbar") == hashlib.sha256("caf\u00e9\nbar".encode()).hexdigest()


@given(st.text(max_size=250))
def test_cleaning_a_text_is_idempotent(text: str) -> None:
    try:
        clean = clean_text(text, SETTINGS)
    except (MediaRejected, TooLarge):
        return
    assert clean_text(clean, SETTINGS) == clean
    assert 1 <= len(clean) <= 200
    assert "\0" not in clean
    assert "\r" not in clean


@pytest.mark.parametrize("text", ["", " \n\t ", "\ufeff", "a\0b", "a\ud800b"])
def test_empty_and_invalid_texts_are_refused(text: str) -> None:
    with pytest.raises(MediaRejected):
        clean_text(text, SETTINGS)


def test_the_limit_counts_characters_and_its_error_names_the_setting() -> None:
    assert len(clean_text("é" * 200, SETTINGS)) == 200
    with pytest.raises(TooLarge, match=r"201.*RETLLM_MAX_TEXT_CHARS"):
        clean_text("é" * 201, SETTINGS)


def test_a_text_file_is_read_as_utf8() -> None:
    assert read_text(io.BytesIO("\ufeff猫".encode()), SETTINGS) == "猫"
    assert read_text(io.BytesIO(("\ufeff" + "😀" * 200).encode()), SETTINGS) == "😀" * 200


@pytest.mark.parametrize(
    ("data", "at"), [("Groß".encode("latin-1"), 4), ("Groß".encode("utf-16"), 1), (b"ab\xe2\x82", 3)]
)
def test_another_encoding_is_refused_with_the_position(data: bytes, at: int) -> None:
    with pytest.raises(MediaRejected, match=rf"UTF-8 \(byte {at}\)"):
        read_text(io.BytesIO(data), SETTINGS)


class Counting(io.BytesIO):
    """Counts the bytes that were read."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


def test_a_text_file_that_is_too_long_is_refused_before_it_is_read() -> None:
    stream = Counting(b"x" * 10_000)
    with pytest.raises(TooLarge, match="RETLLM_MAX_TEXT_CHARS"):
        read_text(stream, SETTINGS)
    assert stream.taken == 0
