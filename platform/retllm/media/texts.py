"""Check and normalise texts and captions."""

from __future__ import annotations

import hashlib
import re
from typing import BinaryIO, NamedTuple

from retllm.errors import MediaRejected, NoText, TooLarge
from retllm.media import streams
from retllm.media.normalization import composed, is_blank
from retllm.media.sheets.encodings import as_text, encoding_of
from retllm.media.sheets.references import names_a_picture
from retllm.settings import Settings

# maximum bytes of a character in UTF-8
_MAX_BYTES_PER_CHAR = 4
# at most so many characters become one
_MOST_COMPOSED = 4
_NUMBER = re.compile(r"[-+]?\d{0,20}\.?\d{1,30}(?:[eE][-+]?\d{1,3})?")
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean_text(text: str, settings: Settings) -> str:
    """Normalise ``text`` for storage: NFC, line ends ``\\n``, no byte order mark, no surrounding whitespace.

    Raises:
        NoText: the text is empty.
        MediaRejected: it contains a NUL character or half a surrogate pair.
        TooLarge: it has more than ``max_text_chars`` characters.
    """
    unified = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in unified:
        raise MediaRejected("The text contains a NUL character, so it does not seem to be plain text.")
    if _SURROGATE.search(unified):
        raise MediaRejected("The text contains half a surrogate pair, which is not a character: correct it.")
    # composing makes a text shorter, but not that much
    _check_length(unified, _MOST_COMPOSED * settings.max_text_chars, settings)
    clean = composed(unified).strip()
    if is_blank(clean):
        raise NoText
    _check_length(clean, settings.max_text_chars, settings)
    return clean


def _check_length(text: str, limit: int, settings: Settings) -> None:
    if len(text) > limit:
        raise TooLarge(
            f"The text has {len(text):,} characters; RETLLM_MAX_TEXT_CHARS allows {settings.max_text_chars:,}.",
            limit=settings.max_text_chars,
        )


class ReadText(NamedTuple):
    """The text of a file, and a remark if its encoding was guessed."""

    text: str
    remark: str | None


def read_text(stream: BinaryIO, settings: Settings) -> ReadText:
    """Read a file in UTF-8, UTF-16 or Windows-1252, and normalise it by :func:`clean_text`.

    Raises:
        MediaRejected: it is in another encoding, or see :func:`clean_text`.
        TooLarge: see :func:`clean_text`; a file that is too long is not read.
    """
    max_bytes = settings.max_text_chars * _MAX_BYTES_PER_CHAR + len("\ufeff".encode())
    if streams.length(stream) > max_bytes:
        raise TooLarge(
            f"The text is too long; RETLLM_MAX_TEXT_CHARS allows {settings.max_text_chars:,} characters.",
            limit=settings.max_text_chars,
        )
    encoding = encoding_of(stream, max_bytes, western=True)
    with as_text(stream, encoding) as text:
        return ReadText(clean_text(text.read(), settings), encoding.remark if encoding.guessed else None)


def without_words(text: str) -> str | None:
    """Return why a text says nothing in words: it has boxes of objects, or names of pictures; None if it does."""
    lines = [line.replace(",", " ").split() for line in text.splitlines() if line.strip()]
    if all(len(line) > 4 and line[0].isdecimal() and all(map(_is_share, line[1:])) for line in lines):
        return "The file has boxes of objects in numbers, no words: leave it out."
    names = [[word for word in line if names_a_picture(word)] for line in lines]
    numbers = [[word for word in line if _is_number(word)] for line in lines]
    all_told = all(len(a) + len(b) == len(line) for a, b, line in zip(names, numbers, lines, strict=True))
    # a single name may be a text
    if all_told and all(names) and sum(map(len, names)) > 1:
        return "The file lists names of pictures without captions: add a caption to each line, or leave it out."
    return None


def _is_share(word: str) -> bool:
    return _is_number(word) and 0 <= float(word) <= 1


def _is_number(word: str) -> bool:
    return _NUMBER.fullmatch(word) is not None


def text_sha256(clean: str) -> str:
    """Return the SHA-256 of a clean text's UTF-8, in hex; it identifies the text within its collection."""
    return hashlib.sha256(clean.encode("utf-8")).hexdigest()
