"""Read the text of a file in UTF-8, UTF-16 or, where a spreadsheet wrote it, an older code page."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import BinaryIO

from retllm.errors import MediaRejected
from retllm.media import streams
from retllm.media.name_encodings import are_words, code_pages

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
# three letters with accents in a row, or four with signs, occur in no Western language: the code page is another one
_NOT_WESTERN = re.compile(rb"[\xc0-\xff]{3}|[\x80-\xff]{4}|[\x00\x81\x8d\x8f\x90\x9d]")
_OVERLAP = 3
# bytes of a character in UTF-8 without its first or its last one
_LEFT = 3
# lines by which a code page is told
_SAMPLE = 1_000
# one line of so many may be damaged in a file of ASCII
_FEW = 4
_ESCAPE = "surrogateescape"
ESCAPED = re.compile("[\udc80-\udcff]+")
"""What a text has where its bytes are not UTF-8."""
BROKEN = re.compile("[\0\udc80-\udcff]")
"""What a text has where its bytes are no text."""
NOT_UTF8 = "has bytes that are not UTF-8 or no text: correct it, and save the file as UTF-8."
"""What is wrong with a row that ``BROKEN`` finds."""


def escaped(text: str) -> str:
    """Return a text in which ``ESCAPED`` finds all that ``BROKEN`` does."""
    return text.replace("\0", "\udc80")


@dataclass(frozen=True, slots=True)
class Encoding:
    """The encoding of a file, with a remark if it is not the expected one, and whether it was guessed.

    ``errors`` says what becomes of bytes that are not in it, as for Python's codecs.
    """

    codec: str
    remark: str | None = None
    guessed: bool = False
    errors: str = "strict"


def encoding_of(
    stream: BinaryIO, limit: int, *, western: bool, table: bool = False, scattered: bool = False
) -> Encoding:
    """Return the encoding of a whole seekable stream.

    Args:
        western: Windows-1252 is one of the encodings.
        table: so are the code pages of other spreadsheets, and single bytes that are not UTF-8 become what ``BROKEN``
            finds, so that they lose their own rows only.
        scattered: so do bytes that are not UTF-8 in a file of ASCII, in short runs as damage leaves them.

    Raises:
        MediaRejected: the stream is in another encoding.
        TooLarge: it has more than ``limit`` bytes.
    """
    head = streams.head(stream, 4)
    if head.startswith((*_UTF16, *_UTF32)):
        name = "UTF-32" if head in _UTF32 else "UTF-16"
        if not _decodes(stream, name, limit):
            raise MediaRejected(f"The file is damaged {name}: save it as UTF-8 and send it again.")
        return Encoding(name.lower(), f"The file is in {name}.")
    try:
        streams.check_utf8(stream, limit)
    except MediaRejected:
        if (table or scattered) and _is_mostly_utf8(stream, limit, scattered=scattered):
            return Encoding("utf-8", errors=_ESCAPE)
        guessed = _guessed(stream, limit, western=western, table=table)
        if table and _is_damaged_utf8(stream, limit, guessed.codec if guessed else None):
            return Encoding("utf-8", errors=_ESCAPE)
        if guessed is None:
            raise
        return guessed
    return Encoding("utf-8")


def _guessed(stream: BinaryIO, limit: int, *, western: bool, table: bool) -> Encoding | None:
    """Return the code page of a file that is not UTF-8; None if it is in none of those that are known here."""
    fits = western and _is_western(stream, limit)
    if table and (codec := _code_page(stream, limit, western=fits)):
        return Encoding(
            codec,
            f"The file is not UTF-8. It was read in the code page {codec}, in which it looks most like words: if "
            "letters are wrong, save it as UTF-8 and upload it again.",
            guessed=True,
        )
    if not fits:
        return None
    return Encoding(
        "cp1252",
        "The file is not UTF-8. It was read as Windows-1252, as Excel writes it: if letters with accents are "
        "wrong, save it as UTF-8 and upload it again.",
        guessed=True,
    )


def _code_page(stream: BinaryIO, limit: int, *, western: bool) -> str | None:
    """Return the code page of a table that all of it is in, None if it looks like words in none."""
    sample = list(islice((line for line in _lines(stream, limit) if not line.isascii()), _SAMPLE))
    pages = code_pages(sample, western=western) if sample else []
    return next((codec for codec in pages if _decodes(stream, codec, limit)), None)


def _lines(stream: BinaryIO, limit: int) -> Iterator[bytes]:
    """Yield the lines of a file, but few of a long one that lie between two parts of it."""
    stream.seek(0)
    for chunk in streams.chunks(stream, limit):
        lines = chunk.splitlines()
        # the first and the last line of a part of the file may be cut
        yield from lines if len(chunk) < streams.CHUNK else lines[1:-1]


def _is_damaged_utf8(stream: BinaryIO, limit: int, codec: str | None) -> bool:
    """Return whether the lines of a table with bytes that are not UTF-8 are damaged ones of UTF-8.

    They are if as many others have characters beyond ASCII that are no words in the code page ``codec`` of the whole
    file. If it is in none, they are also if they are few and have few such bytes.
    """
    count = broken = longest = 0
    sound: list[bytes] = []
    for line in _lines(stream, limit):
        count += 1
        runs = [len(run) for run in ESCAPED.findall(line.decode("utf-8", _ESCAPE))]
        broken += bool(runs)
        longest = max(longest, *runs, 0)
        if not (runs or line.isascii()) and len(sound) < _SAMPLE:
            sound.append(line)
    if codec is None:
        return broken <= len(sound) or (broken * _FEW <= count and longest <= _LEFT)
    return broken <= len(sound) and not are_words(sound, codec)


def _decodes(stream: BinaryIO, codec: str, limit: int) -> bool:
    stream.seek(0)
    decoder = codecs.getincrementaldecoder(codec)()
    try:
        for chunk in streams.chunks(stream, limit):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _is_mostly_utf8(stream: BinaryIO, limit: int, *, scattered: bool) -> bool:
    """Return whether at least as many characters beyond ASCII are UTF-8 as there are bytes that are not.

    With ``scattered`` there may be more of these, if each run of them is no longer than what is left of a character.
    """
    stream.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")(_ESCAPE)
    good = bad = longest = 0
    for chunk in chain(streams.chunks(stream, limit), [b""]):
        text = decoder.decode(chunk, final=not chunk)
        runs = [len(run) for run in ESCAPED.findall(text)]
        broken = sum(runs)
        bad += broken
        longest = max(longest, *runs, 0)
        good += len(text) - len(text.encode("ascii", "ignore")) - broken
    return good >= bad or (scattered and longest <= _LEFT)


def _is_western(stream: BinaryIO, limit: int) -> bool:
    stream.seek(0)
    end = b""
    for chunk in streams.chunks(stream, limit):
        if _NOT_WESTERN.search(end + chunk):
            return False
        end = chunk[-_OVERLAP:]
    return True


@contextmanager
def as_text(stream: BinaryIO, encoding: Encoding) -> Iterator[io.TextIOWrapper]:
    """Open a seekable stream as text from its start, with its line ends as they are; the stream stays open."""
    stream.seek(0)
    # newline="": keep line breaks inside quoted fields
    text = io.TextIOWrapper(_Seekable(stream), encoding=encoding.codec, errors=encoding.errors, newline="")
    try:
        yield text
    finally:
        # the caller owns the stream and may read it again
        text.detach()


class _Seekable(io.BufferedReader):
    """Adapts a temporary file of the standard library, which lacks methods that TextIOWrapper needs."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(_Raw(stream))


class _Raw(io.RawIOBase):
    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self._stream.read(len(view))
        view[: len(data)] = data
        return len(data)
