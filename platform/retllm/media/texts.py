"""Texts and captions: checked and brought into one form."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import BinaryIO

from retllm.errors import MediaRejected, TooLarge
from retllm.media import streams
from retllm.settings import Settings

# the most bytes that a character takes in UTF-8
_BYTES_PER_CHAR = 4


def clean_text(text: str, settings: Settings) -> str:
    """``text`` as it is stored: NFC, line ends ``\\n``, no byte order mark, no blanks around it.

    Raises:
        MediaRejected: nothing is left, or it holds characters that are no text (NUL, half a surrogate pair).
        TooLarge: more than ``max_text_chars`` characters.
    """
    unified = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in unified:
        raise MediaRejected("The text holds a NUL character: it seems to be no plain text.")
    if any("\ud800" <= c <= "\udfff" for c in unified):
        raise MediaRejected("The text holds half a surrogate pair, which is no character: correct it.")
    clean = unicodedata.normalize("NFC", unified).strip()
    if not clean:
        raise MediaRejected("The text is empty.")
    if len(clean) > settings.max_text_chars:
        raise TooLarge(
            f"The text has {len(clean):,} characters; RETLLM_MAX_TEXT_CHARS allows {settings.max_text_chars:,}.",
            limit=settings.max_text_chars,
        )
    return clean


def read_text(stream: BinaryIO, settings: Settings) -> str:
    """The text of a UTF-8 file (a byte order mark is fine), in the form of :func:`clean_text`.

    Raises:
        MediaRejected: it is not UTF-8, or see :func:`clean_text`.
        TooLarge: see :func:`clean_text`; never read further than a text may be long.
    """
    most = settings.max_text_chars * _BYTES_PER_CHAR + len("\ufeff".encode())
    if streams.length(stream) > most:
        raise TooLarge(
            f"The text is too long; RETLLM_MAX_TEXT_CHARS allows {settings.max_text_chars:,} characters.",
            limit=settings.max_text_chars,
        )
    try:
        return clean_text(stream.read().decode("utf-8"), settings)
    except UnicodeDecodeError as error:
        raise MediaRejected(
            f"The text is not UTF-8 (byte {error.start + 1:,}): save it as UTF-8 and send it again."
        ) from error


def text_sha256(clean: str) -> str:
    """The identity of a clean text within its collection: SHA-256 of its UTF-8, in hex."""
    return hashlib.sha256(clean.encode("utf-8")).hexdigest()
