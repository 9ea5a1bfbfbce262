"""The caption inside of a picture file: XMP, IPTC, EXIF, texts of a PNG."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator

from retllm.errors import MediaRejected, TooLarge
from retllm.media.sheets import iptc as iim
from retllm.media.sheets import xmp as xmp_document
from retllm.media.sheets.placeholders import is_placeholder, is_settings
from retllm.media.texts import clean_text
from retllm.settings import Settings

# EXIF 2.32, table 9: the character code before a comment; nobody keeps to JIS without its escapes
_CODES = {b"ASCII\0\0\0": "utf-8", b"UNICODE\0": "utf-16", b"JIS\0\0\0\0\0": "iso2022_jp", bytes(8): "utf-8"}


def embedded_caption(
    settings: Settings,
    *,
    name: str = "",
    xmp: bytes | None = None,
    iptc: bytes | None = None,
    exif: bytes | str | None = None,
    comment: bytes | None = None,
) -> str | None:
    """Return the caption that a picture's file has in itself, None if it has none.

    The first of these counts that is not what a camera writes into every picture: XMP's ``dc:description``,
    ``acdsee:caption``, ``acdsee:notes``, ``tiff:ImageDescription``; IPTC's caption; EXIF's ImageDescription,
    UserComment; XMP's ``photoshop:Headline``, ``Iptc4xmpCore:AltTextAccessibility``. Damaged metadata counts as absent.

    Args:
        name: that of the file, which is no caption.
        xmp: the packet. iptc: the IIM fields, or Photoshop's resources that hold them.
        exif: the value of the tag ImageDescription, or the description of a PNG.
        comment: the value of the tag UserComment.
    """
    for found in _candidates(xmp, iptc, exif, comment):
        try:
            caption = clean_text(found.rstrip("\0"), settings)
        except (MediaRejected, TooLarge):
            continue
        if not is_placeholder(caption, name):
            return caption
    return None


def _candidates(
    xmp: bytes | None, iptc: bytes | None, exif: bytes | str | None, comment: bytes | None
) -> Iterator[str]:
    said = _from_xmp(xmp)
    yield from (said[name] for name in xmp_document.CAPTIONS if name in said)
    yield _from_iptc(iptc) or ""
    yield iim.decoded(exif)
    yield _from_comment(comment or b"")
    yield said.get(xmp_document.HEADLINE, "")
    yield said.get(xmp_document.ALTERNATIVE, "")


def _from_xmp(packet: bytes | None) -> dict[str, str]:
    try:
        # padding after the packet is no XML
        return xmp_document.properties(io.BytesIO(packet.strip(b"\0 \t\r\n"))) if packet else {}
    except (MediaRejected, TooLarge):
        return {}


def _from_comment(comment: bytes) -> str:
    """Return the text of a UserComment; none if it has no character code, or is what a program notes for itself."""
    codec, body = _CODES.get(comment[:8]), comment[8:]
    if codec is None:
        return ""
    if codec == "utf-16" and not body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        # programs do not keep to the byte order of the file; high bytes of most letters are alike
        body = body[: len(body) // 2 * 2]
        codec = "utf-16-be" if len(set(body[::2])) < len(set(body[1::2])) else "utf-16-le"
    try:
        text = iim.decoded(body, codec) if codec == "utf-8" else body.decode(codec)
    except UnicodeDecodeError:
        return ""
    text = text.strip("\0 \t\r\n")
    return "" if is_settings(text) else text


def _from_iptc(data: bytes | None) -> str | None:
    captions = iim.texts(data or b"").get(iim.CAPTION)
    return "".join(captions) if captions else None
