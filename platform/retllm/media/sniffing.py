"""Detect the kind of a file by its content first and its name second."""

from __future__ import annotations

from enum import StrEnum

from retllm.errors import MediaRejected
from retllm.media.names import suffix_of

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".dib", ".mpo"}
)
_TEXT_SUFFIXES = frozenset({".txt", ".text", ".caption"})
_CSV_SUFFIXES = frozenset({".csv", ".tsv"})
_JSONL_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
_XMP_SUFFIX = ".xmp"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
ACCEPTED = (
    "pictures (JPEG, PNG, WebP, GIF, TIFF, BMP), texts (.txt), captions (.csv, .json, .xmp and others) and ZIP archives"
)


class FileKind(StrEnum):
    """How an uploaded file is processed."""

    PICTURE = "picture"  # one of the six picture formats
    TEXT = "text"  # a plain text, one item
    CSV = "csv"  # rows of captions or texts in a table
    JSONL = "jsonl"  # rows of captions or texts in JSON, or what JSON says of the picture beside it
    XMP = "xmp"  # what XMP says of the picture beside it
    ARCHIVE = "archive"  # a ZIP of any of the others


_PICTURES = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
    b"II+\0": "image/tiff",
    b"MM\0+": "image/tiff",
}
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06")
_KNOWN_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF-", "a PDF"),
    (0, b"\x1f\x8b", "a gzip archive: send a ZIP"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: send a ZIP"),
    (0, b"Rar!", "a RAR archive: send a ZIP"),
    (0, b"BZh", "a bzip2 archive: send a ZIP"),
    (0, b"\xfd7zXZ", "an xz archive: send a ZIP"),
    (257, b"ustar", "a tar archive: send a ZIP"),
    (4, b"ftypheic", "a HEIC picture: save it as JPEG"),
    (4, b"ftypheix", "a HEIC picture: save it as JPEG"),
    (4, b"ftypmif1", "a HEIF picture: save it as JPEG"),
    (4, b"ftypavif", "an AVIF picture: save it as JPEG"),
    (4, b"ftyp", "a video"),
    (0, b"8BPS", "a Photoshop file: save it as PNG"),
    (0, b"\xff\xfe", "a text in UTF-16: save it as UTF-8"),
    (0, b"\xfe\xff", "a text in UTF-16: save it as UTF-8"),
    (0, b"MZ", "a program"),
    (0, b"\x7fELF", "a program"),
)
_MARKUP = (
    (b"<svg", "an SVG drawing: save it as PNG"),
    (b"<!doctype svg", "an SVG drawing: save it as PNG"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML document"),
)


def sniff(head: bytes, name: str) -> FileKind:
    """Detect the kind of a file from its first bytes (at least 512, if it has so many) and its name.

    Raises:
        MediaRejected: the kind is not accepted; the message names the kind and what to do.
    """
    if not head:
        raise MediaRejected("The file is empty.")
    if media_type_of(head) is not None:
        return FileKind.PICTURE
    if head.startswith(_ARCHIVES):
        return FileKind.ARCHIVE
    if head.startswith(_UTF16) and suffix_of(name) in _CSV_SUFFIXES | _JSONL_SUFFIXES:
        return FileKind.CSV if suffix_of(name) in _CSV_SUFFIXES else FileKind.JSONL
    for offset, magic, what in _KNOWN_OTHERS:
        if head[offset:].startswith(magic):
            raise MediaRejected(f"The file is {what}. Accepted: {ACCEPTED}.")
    if b"\0" in head:
        raise MediaRejected(f"The kind of the file is unknown. Accepted: {ACCEPTED}.")
    return _textual(head, name)


def media_type_of(head: bytes) -> str | None:
    """Return the media type of a picture by its first bytes (at least 16), without parsing; None if not a picture."""
    for magic, media_type in _PICTURES.items():
        if head.startswith(magic):
            return media_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    # the signature of BMP has only two bytes, so also require its reserved bytes to be zero
    return "image/bmp" if head[:2] == b"BM" and head[6:10] == bytes(4) else None


def _textual(head: bytes, name: str) -> FileKind:
    suffix = suffix_of(name)
    if suffix in _TEXT_SUFFIXES:
        return FileKind.TEXT
    if suffix == _XMP_SUFFIX:
        return FileKind.XMP
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for opening, what in _MARKUP:
        if start.startswith(opening):
            raise MediaRejected(f"The file is {what}. Accepted: {ACCEPTED}.")
    if suffix in _CSV_SUFFIXES:
        return FileKind.CSV
    if suffix in _JSONL_SUFFIXES:
        return FileKind.JSONL
    if suffix in PICTURE_SUFFIXES:
        raise MediaRejected(f"The file is named {suffix} but is not such a picture: export it again as JPEG or PNG.")
    if suffix == ".zip":
        raise MediaRejected("The file is named .zip but is not a ZIP archive: pack it again.")
    raise MediaRejected(f"The kind of the file is unknown. Accepted: {ACCEPTED}.")
