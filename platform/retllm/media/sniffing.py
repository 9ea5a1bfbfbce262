"""Detect the kind of a file by its content first and its name second."""

from __future__ import annotations

from enum import StrEnum

from retllm.errors import MediaRejected
from retllm.media import other_kinds, tars, zips
from retllm.media.decoding.signatures import media_type_of
from retllm.media.file_table import DESCRIBING, FileRole, role_of
from retllm.media.formats import PICTURE_FORMATS
from retllm.media.names import suffix_of
from retllm.settings import Settings

_CSV_SUFFIXES = frozenset({".csv", ".tsv", ".token"})
_JSONL_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
_FEW = 20
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # of JPEG and PNG
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
ACCEPTED_SENTENCE = (
    f"Accepted: pictures ({PICTURE_FORMATS}), PDFs, films, texts (.txt), "
    "captions (.csv, .json, .xmp and others), ZIP and tar archives."
)
"""The end of messages on files of other kinds."""


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
_PDF = b"%PDF-"
_OTHER_KINDS = tuple((magic, "a ZIP archive") for magic in zips.SIGNATURES)
# in the containers of films
_SOUNDS = (
    (4, b"ftypM4A"),
    (4, b"ftypM4B"),
    (28, b"OpusHead"),
    (28, b"\1vorbis"),
    (28, b"\x7fFLAC"),
    (28, b"Speex   "),
)
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
# transport streams (ISO/IEC 13818-1) have packets of 188 bytes, with a time before each as cameras write them 192
_SYNC = 0x47
_PACKETS = ((0, 188), (4, 192))
_TRANSPORT = "video/mp2t"


def sniff(head: bytes, name: str) -> FileKind:
    """Detect the kind of a file from its first bytes (at least 512, if it has so many) and its name.

    Raises:
        MediaRejected: the kind is not accepted; the message names the kind and what to do.
    """
    if not head:
        raise MediaRejected("The file is empty.")
    if media_type_of(head) is not None:
        return FileKind.PICTURE
    if (document := other_kinds.document_of(name)) is not None and not _is_pdf(head):
        raise MediaRejected(f"The file is {document}.")
    if head.startswith(zips.SIGNATURES) or tars.is_tar_archive(head):
        return FileKind.ARCHIVE
    if head.startswith(_UTF16) and role_of(name) in DESCRIBING:
        return _by_suffix(name)
    if _is_pdf(head):
        return FileKind.PDF
    if _film(head) is not None:
        return FileKind.FILM
    if (what := other_kinds.name_of(head, textual=not _describes_one(name))) is not None:
        raise MediaRejected(f"The file is {what}. {ACCEPTED_SENTENCE}")
    if b"\0" in head:
        _check_zeros(head, name)
    return _by_suffix(name)


def _check_zeros(head: bytes, name: str) -> None:
    """Check that only few bytes or lines of a sheet are or have zeros, which lose their rows; no other text may."""
    if suffix_of(name) not in _CSV_SUFFIXES | _JSONL_SUFFIXES:
        raise _misnamed(name, head)
    lines = head.splitlines()
    if head.count(0) * _FEW > len(head) and sum(b"\0" in line for line in lines) * 2 > len(lines):
        raise MediaRejected("The file has zeros, as in UTF-16 or UTF-32: save it as UTF-8 and send it again.")


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
            or other_kinds.name_of(head)
            or "not a picture that is known here"
        )
        raise MediaRejected(f"The file is {what}. Accepted formats of pictures: {PICTURE_FORMATS}.")


def _film(head: bytes) -> str | None:
    """Return what kind of film a file is. A text may have the same letters, but no zero."""
    if b"\0" not in head or any(head.startswith(sound, at) for at, sound in _SOUNDS):
        return None
    if _is_transport(head):
        return "a film (MPEG transport stream)"
    return next((what for offset, magic, what, _ in _FILMS if head.startswith(magic, offset)), None)


def _is_pdf(head: bytes) -> bool:
    """Whether a file begins like a PDF, perhaps after an empty line or a byte order mark."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_PDF)


def whole_media_type(head: bytes) -> str:
    """Return the media type of a file that has parts, of an accepted kind, by its first bytes (at least 64)."""
    if _is_pdf(head):
        return "application/pdf"
    if _is_transport(head):
        return _TRANSPORT
    film = (media_type for offset, magic, _, media_type in _FILMS if head.startswith(magic, offset))
    return media_type_of(head) or next(film, "application/octet-stream")


def _is_transport(head: bytes) -> bool:
    """Return whether a file begins with packets of a transport stream; of two, if there are not more."""
    return any(
        len(head) > start + size and all(byte == _SYNC for byte in head[start::size]) for start, size in _PACKETS
    )


def _describes_one(name: str) -> bool:
    """Return whether the name is that of a text, which may be the caption of one picture; it may begin like markup."""
    return role_of(name) in (FileRole.TEXT, FileRole.SIDECAR)


def _by_suffix(name: str) -> FileKind:
    suffix = suffix_of(name)
    if _describes_one(name):
        return FileKind.XMP if suffix == ".xmp" else FileKind.TEXT
    if suffix in _CSV_SUFFIXES:
        return FileKind.CSV
    if suffix in _JSONL_SUFFIXES:
        return FileKind.JSONL
    raise _misnamed(name)


def _misnamed(name: str, head: bytes = b"") -> MediaRejected:
    """Return why a file that is nothing that its name says is refused."""
    suffix, role = suffix_of(name), role_of(name)
    if role is FileRole.PICTURE and any(magic in head for magic in _SIGNATURES):
        return MediaRejected("The file has other data before its picture: export it again as JPEG or PNG.")
    if role is FileRole.PICTURE:
        return MediaRejected(f"The file is named {suffix} but is not such a picture: export it again as JPEG or PNG.")
    if suffix == ".zip":
        return MediaRejected(
            "The file is named .zip but is not such an archive: pack it again. If it is "
            "part of a split archive, join the parts, then upload."
        )
    if role is FileRole.ARCHIVE:
        return MediaRejected(f"The file is named {suffix} but is not such an archive: pack it again.")
    if role is FileRole.FILM:
        return MediaRejected(f"The file is named {suffix} but is not such a film: export it again as MP4.")
    if (what := other_kinds.by_suffix(name)) is not None:
        return MediaRejected(f"The file is {what}. {ACCEPTED_SENTENCE}")
    return MediaRejected(f"The kind of the file is unknown. {ACCEPTED_SENTENCE}")
