"""Detect the kind of a file by its content first and its name second."""

from __future__ import annotations

from enum import StrEnum

from retllm.errors import MediaRejected
from retllm.media import tars, zips
from retllm.media.file_table import FileRole, role_of
from retllm.media.names import suffix_of

_CSV_SUFFIXES = frozenset({".csv", ".tsv"})
_JSONL_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
ACCEPTED = "pictures (JPEG, PNG, WebP, GIF, TIFF, BMP), texts (.txt), captions (.csv, .jsonl), ZIP and tar archives"


class FileKind(StrEnum):
    """How an uploaded file is processed."""

    PICTURE = "picture"  # one of the six picture formats
    TEXT = "text"  # a plain text, one item
    CSV = "csv"  # rows of captions or texts
    JSONL = "jsonl"  # rows of captions or texts, one JSON object per line
    ARCHIVE = "archive"  # a ZIP or tar of any of the others


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
_KNOWN_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF-", "a PDF"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: send a ZIP"),
    (0, b"Rar!", "a RAR archive: send a ZIP"),
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
    if head.startswith(zips.SIGNATURES) or tars.is_tar_archive(head):
        return FileKind.ARCHIVE
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
    suffix, role = suffix_of(name), role_of(name)
    if role is FileRole.TEXT:
        return FileKind.TEXT
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for opening, what in _MARKUP:
        if start.startswith(opening):
            raise MediaRejected(f"The file is {what}. Accepted: {ACCEPTED}.")
    if suffix in _CSV_SUFFIXES:
        return FileKind.CSV
    if suffix in _JSONL_SUFFIXES:
        return FileKind.JSONL
    if role is FileRole.PICTURE:
        raise MediaRejected(f"The file is named {suffix} but is not such a picture: export it again as JPEG or PNG.")
    if role is FileRole.ARCHIVE:
        raise MediaRejected(f"The file is named {suffix} but is not such an archive: pack it again.")
    raise MediaRejected(f"The kind of the file is unknown. Accepted: {ACCEPTED}.")
