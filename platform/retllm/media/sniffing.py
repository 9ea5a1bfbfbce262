"""Detect the kind of a file by its content first and its name second."""

from __future__ import annotations

from enum import StrEnum

from retllm.errors import MediaRejected
from retllm.media import tars, zips
from retllm.media.decoding.signatures import media_type_of
from retllm.media.file_table import FileRole, role_of
from retllm.media.formats import PICTURE_FORMATS
from retllm.media.names import suffix_of
from retllm.settings import Settings

_CSV_SUFFIXES = frozenset({".csv", ".tsv"})
_JSONL_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
ACCEPTED = (
    f"pictures ({PICTURE_FORMATS}), PDFs, films, texts (.txt), "
    "captions (.csv, .json, .xmp and others), ZIP and tar archives"
)


class FileKind(StrEnum):
    """How an uploaded file is processed."""

    PICTURE = "picture"  # a picture of an accepted format
    PDF = "pdf"  # pages, each a picture
    FILM = "film"  # key frames, each a picture
    TEXT = "text"  # a plain text, one item
    CSV = "csv"  # rows of captions or texts in a table
    JSONL = "jsonl"  # rows of captions or texts in JSON, or what JSON says of the picture beside it
    XMP = "xmp"  # what XMP says of the picture beside it
    ARCHIVE = "archive"  # a ZIP or tar of any of the others


PICTURED = (FileKind.PICTURE, FileKind.PDF, FileKind.FILM)
"""Kinds of files that become pictures."""
_KNOWN_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: send a ZIP"),
    (0, b"Rar!\x1a\x07", "a RAR archive: send a ZIP"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 picture: save it as JPEG"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture: save it as JPEG"),
    (0, b"II\xbc\x01", "a JPEG XR picture: save it as JPEG"),
    (0, b"BPG\xfb", "a BPG picture: save it as JPEG"),
    (0, b"FLIF", "a FLIF picture: save it as PNG"),
    (0, b"qoif", "a QOI picture: save it as PNG"),
    (0, b"DDS ", "a texture (DDS): save it as PNG"),
    (0, b"\x01\xda\0", "a picture of Silicon Graphics (SGI): save it as PNG"),
    (0, b"\x01\xda\1", "a picture of Silicon Graphics (SGI): save it as PNG"),
    (0, b"SDPX", "a DPX picture: save it as PNG"),
    (0, b"XPDS", "a DPX picture: save it as PNG"),
    (0, b"\x8aMNG\r\n\x1a\n", "an animation (MNG): save it as PNG"),
    (0, b"\x8bJNG\r\n\x1a\n", "a JNG picture: save it as PNG"),
    (0, b"icns", "an icon: save it as PNG"),
    (0, b"\0\0\2\0\0\0\0\0", "a TGA picture: save it as PNG"),
    (0, b"\0\0\x0a\0\0\0\0\0", "a TGA picture: save it as PNG"),
    (0, b"\xd7\xcd\xc6\x9a", "a drawing of Windows (WMF): save it as PNG"),
    (40, b" EMF", "a drawing of Windows (EMF): save it as PNG"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file: save its pictures as PNG"),
    (0, b"SQLite format 3\0", "a database (SQLite)"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript drawing: save it as PNG"),
    (0, b"v/1\x01", "an OpenEXR picture: save it as PNG"),
    (0, b"\0\0\1\0", "an icon: save it as PNG"),
    (128, b"DICM", "a DICOM picture: save it as PNG"),
    (0, b"\xd0\xcf\x11\xe0", "a document of Microsoft Office"),
    (0, b"ID3\3", "a sound (MP3)"),
    (0, b"ID3\4", "a sound (MP3)"),
    (0, b"fLaC\0", "a sound (FLAC)"),
    (8, b"WAVEfmt", "a sound (WAV)"),
    (8, b"AIFF", "a sound (AIFF)"),
    (8, b"AIFC", "a sound (AIFF)"),
    (4, b"ftypM4A", "a sound (M4A)"),
    (4, b"ftypM4B", "a sound (M4B)"),
    (0, b"\xff\xfe", "a text in UTF-16: save it as UTF-8"),
    (0, b"\xfe\xff", "a text in UTF-16: save it as UTF-8"),
    (0, b"MZ", "a program"),
    (0, b"\x7fELF", "a program"),
)
_PDF = b"%PDF-"
_OTHER_KINDS = tuple((magic, "a ZIP archive") for magic in zips.SIGNATURES)
_SOUNDS = (b"ftypM4A", b"ftypM4B")  # in the container of films
_FILMS: tuple[tuple[int, bytes, str, str], ...] = (
    (4, b"ftypqt  ", "a film (MOV)", "video/quicktime"),
    (4, b"ftyp3g", "a film (3GP)", "video/3gpp"),
    (4, b"ftyp", "a film (MP4)", "video/mp4"),
    (4, b"moov", "a film (MOV)", "video/quicktime"),
    (4, b"mdat", "a film (MOV)", "video/quicktime"),
    (4, b"wide", "a film (MOV)", "video/quicktime"),
    (0, b"\x1a\x45\xdf\xa3", "a film (Matroska or WebM)", "video/x-matroska"),
    (8, b"AVI LIST", "a film (AVI)", "video/x-msvideo"),
    (0, b"FLV\1", "a film (FLV)", "video/x-flv"),
    (0, b"\0\0\1\xba", "a film (MPEG)", "video/mpeg"),
    (0, b"\0\0\1\xb3", "a film (MPEG)", "video/mpeg"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a film (WMV)", "video/x-ms-wmv"),
    (0, b"OggS\0", "a film (Ogg)", "video/ogg"),
)
# files that begin like a text, in lower case
_TEXTUAL = (
    (b"<svg", "an SVG drawing: save it as PNG"),
    (b"<!doctype svg", "an SVG drawing: save it as PNG"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML document"),
    (b"%!ps", "a PostScript drawing: save it as PNG"),
    (b"gimp xcf", "a GIMP drawing: export it as PNG"),
    (b"#?radiance", "a Radiance picture: save it as PNG"),
    (b"simple  =", "a FITS picture: save it as PNG"),
    (b"at&tform", "a DjVu document: save its pages as PNG"),
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
    if head.startswith(_UTF16) and suffix_of(name) in _CSV_SUFFIXES | _JSONL_SUFFIXES:
        return FileKind.CSV if suffix_of(name) in _CSV_SUFFIXES else FileKind.JSONL
    if _is_pdf(head):
        return FileKind.PDF
    if _film(head) is not None:
        return FileKind.FILM
    if (what := _other(head, textual=not _describes_one(name))) is not None:
        raise MediaRejected(f"The file is {what}. Accepted: {ACCEPTED}.")
    if b"\0" in head:
        raise MediaRejected(f"The kind of the file is unknown. Accepted: {ACCEPTED}.")
    return _by_suffix(name)


def limit_of(kind: FileKind | None, settings: Settings) -> tuple[int, str]:
    """Return how many bytes a file of this kind may have, and the setting that limits it; None means any other kind."""
    if kind is FileKind.ARCHIVE:
        return settings.max_request_bytes, "RETLLM_MAX_REQUEST_BYTES"
    if kind is FileKind.FILM:
        return settings.max_film_bytes, "RETLLM_MAX_FILM_BYTES"
    return settings.max_file_bytes, "RETLLM_MAX_FILE_BYTES"


def check_is_picture(head: bytes) -> None:
    """Check that a file begins like a picture; its name is unknown.

    Raises:
        MediaRejected: it is something else, which the message names.
    """
    if not head:
        raise MediaRejected("The file is empty.")
    if media_type_of(head) is None:
        known = next((what for magic, what in _OTHER_KINDS if head.startswith(magic)), None)
        what = (
            known
            or ("a PDF" if _is_pdf(head) else None)
            or _film(head)
            or _other(head)
            or "not a picture that is known here"
        )
        raise MediaRejected(f"The file is {what}. Accepted formats of pictures: {PICTURE_FORMATS}.")


def _film(head: bytes) -> str | None:
    """Return what kind of film a file is. A text may have the same letters, but no zero."""
    if b"\0" not in head or head.startswith(_SOUNDS, 4):
        return None
    if _is_transport_stream(head):
        return "a film (MPEG-TS)"
    return next((what for offset, magic, what, _ in _FILMS if head.startswith(magic, offset)), None)


def _is_transport_stream(head: bytes) -> bool:
    """Whether packets of 188 bytes begin the file, of cameras (AVCHD) each after a timestamp of 4 bytes."""
    return any(head[at : at + 2 * size + 1 : size] == b"GGG" for at, size in ((0, 188), (4, 192)))


def _is_pdf(head: bytes) -> bool:
    """Whether a file begins like a PDF, perhaps after an empty line or a byte order mark."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_PDF)


def whole_media_type(head: bytes) -> str:
    """Return the media type of a file that has parts, of an accepted kind, by its first bytes (at least 64)."""
    if _is_pdf(head):
        return "application/pdf"
    if _is_transport_stream(head):
        return "video/mp2t"
    film = (media_type for offset, magic, _, media_type in _FILMS if head.startswith(magic, offset))
    return media_type_of(head) or next(film, "application/octet-stream")


def _other(head: bytes, *, textual: bool = True) -> str | None:
    """Return what a file of another kind is, and what to do with it; without ``textual``, it may begin like markup."""
    for offset, magic, what in _KNOWN_OTHERS:
        # a text may begin with the same letters
        is_binary = b"\0" in head or any(byte < 32 or byte > 126 for byte in magic)
        if is_binary and head.startswith(magic, offset):
            return what
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower() if textual else b""
    return next((what for opening, what in _TEXTUAL if start.startswith(opening)), None)


def _describes_one(name: str) -> bool:
    """Return whether the name is that of a text, which may be the caption of one picture; it may begin like markup."""
    return role_of(name) in (FileRole.TEXT, FileRole.SIDECAR)


def _by_suffix(name: str) -> FileKind:
    suffix, role = suffix_of(name), role_of(name)
    if _describes_one(name):
        return FileKind.XMP if suffix == ".xmp" else FileKind.TEXT
    if suffix in _CSV_SUFFIXES:
        return FileKind.CSV
    if suffix in _JSONL_SUFFIXES:
        return FileKind.JSONL
    if role is FileRole.PICTURE:
        raise MediaRejected(f"The file is named {suffix} but is not such a picture: export it again as JPEG or PNG.")
    if role is FileRole.ARCHIVE:
        raise MediaRejected(f"The file is named {suffix} but is not such an archive: pack it again.")
    raise MediaRejected(f"The kind of the file is unknown. Accepted: {ACCEPTED}.")
