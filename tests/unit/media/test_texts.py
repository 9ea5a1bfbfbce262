"""Texts are normalized, so that equal texts are recognized."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retllm.errors import MediaRejected, TooLarge
from retllm.media.texts import clean_text, read_text, text_sha256, without_words
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


def test_a_text_file_is_read_in_the_encodings_of_editors() -> None:
    assert read_text(io.BytesIO("\ufeff猫".encode()), SETTINGS) == ("猫", None)
    assert read_text(io.BytesIO(("\ufeff" + "😀" * 200).encode()), SETTINGS) == ("😀" * 200, None)
    for codec in ("utf-16", "utf-16-le", "utf-16-be"):
        data = ("\ufeff" if codec != "utf-16" else "") + "Größe 猫"
        assert read_text(io.BytesIO(data.encode(codec)), SETTINGS) == ("Größe 猫", None)
    text, remark = read_text(io.BytesIO("Größe – “x”".encode("cp1252")), SETTINGS)
    assert text == "Größe – “x”"
    assert "read as Windows-1252" in str(remark)


@pytest.mark.parametrize(("data", "at"), [("a фото".encode("cp1251"), 3), ("写真".encode("cp932"), 1)])
def test_another_encoding_is_refused_with_the_position(data: bytes, at: int) -> None:
    with pytest.raises(MediaRejected, match=rf"UTF-8 \(byte {at}\)"):
        read_text(io.BytesIO(data), SETTINGS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 0.5 0.5 0.1 0.25\n17 0.716797 0.395833 0.216406 1\n", "boxes of objects"),
        ("45 0.78 0.6 0.78 0.7 0.79 0.75 0.8 0.81", "boxes of objects"),
        ("a.jpg\nb.jpg\n", "names of pictures"),
        ("a.jpg\ta.jpg#2\t1\t1\t2\n", "names of pictures"),
        ("train/a.jpg 0\ntrain/b.jpg 1\n", "names of pictures"),
        ("a.jpg", None),
        ("42", None),
        ("1 2 3 4 5", None),
        ("2024 0.5 of them\n", None),
        ("a.jpg shows a dog\nb.jpg shows a cat", None),
    ],
)
def test_a_text_without_words_is_told(text: str, reason: str | None) -> None:
    found = without_words(text)
    assert found is None if reason is None else reason in str(found)


@given(st.text(max_size=100))
def test_any_text_can_be_asked_for_words(text: str) -> None:
    without_words(text)


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
