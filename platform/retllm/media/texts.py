"""Check and normalise texts and captions."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import BinaryIO

from retllm.errors import MediaRejected, TooLarge
from retllm.media import streams
from retllm.settings import Settings

# maximum bytes of a character in UTF-8
_MAX_BYTES_PER_CHAR = 4
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean_text(text: str, settings: Settings) -> str:
    """Normalise ``text`` for storage: NFC, line ends ``\\n``, no byte order mark, no surrounding whitespace.

    Raises:
        MediaRejected: the text is empty or contains a NUL character or half a surrogate pair.
        TooLarge: it has more than ``max_text_chars`` characters.
    """
    unified = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in unified:
        raise MediaRejected("The text contains a NUL character, so it does not seem to be plain text.")
    if _SURROGATE.search(unified):
        raise MediaRejected("The text contains half a surrogate pair, which is not a character: correct it.")
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
    """Read a UTF-8 file, with or without byte order mark, and normalise it by :func:`clean_text`.

    Raises:
        MediaRejected: it is not UTF-8, or see :func:`clean_text`.
        TooLarge: see :func:`clean_text`; a file that is too long is not read.
    """
    max_bytes = settings.max_text_chars * _MAX_BYTES_PER_CHAR + len("\ufeff".encode())
    if streams.length(stream) > max_bytes:
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
    """Return the SHA-256 of a clean text's UTF-8, in hex; it identifies the text within its collection."""
    return hashlib.sha256(clean.encode("utf-8")).hexdigest()
