"""What a picture's file says of itself in words, as bytes that are not interpreted here: XMP, IPTC, EXIF."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

from PIL import Image

from retllm.media.decoding.shot import shot_of

MAX_TEXT = 1 << 20
"""Bytes of each that are passed on; what is longer is left out."""
_DESCRIPTION = 0x010E  # EXIF and TIFF: ImageDescription
_EXIF_BLOCK, _COMMENT = 0x8769, 0x9286  # EXIF: its own tags, and UserComment among them
_IPTC_RESOURCE = 0x0404  # of Photoshop, in a JPEG
_XMP_TAG, _IPTC_TAG, _RESOURCES_TAG = 700, 33_723, 34_377  # of TIFF

PNG_TEXTS = (_XMP_KEYWORD, _DESCRIPTION_KEYWORD, _TITLE_KEYWORD) = (b"XML:com.adobe.xmp", b"Description", b"Title")
"""Keywords of texts that say what a PNG shows (ISO/IEC 15948, 11.3.4.2); a title is a short caption."""
TIFFS = (b"II*\0", b"MM\0*")
"""What a TIFF begins with, which EXIF is."""
PNG_EXIF = b"eXIf"
"""The chunk of a PNG with EXIF, which Pillow reads too late if it stands after the pixels."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The XMP packet, the IPTC fields (or Photoshop's resources that hold them), two texts of EXIF.

    ``exif`` is ImageDescription, ``comment`` UserComment. A PNG without the former has its Description or Title there.
    ``shot`` is what EXIF says otherwise (``decoding.shot``).
    """

    xmp: bytes = b""
    iptc: bytes = b""
    exif: bytes = b""
    comment: bytes = b""
    shot: bytes = b""

    def parts(self) -> tuple[bytes, ...]:
        """Return all, without those that are too long."""
        every = (self.xmp, self.iptc, self.exif, self.comment, self.shot)
        return tuple(text if len(text) <= MAX_TEXT else b"" for text in every)


NO_TEXTS = Texts()
TEXTS = len(fields(Texts))
"""How many there are of a picture."""


def texts_of(picture: Image.Image, png: Mapping[bytes, bytes] | None = None) -> Texts:
    """Return what the file of an opened picture says; what is damaged counts as absent.

    Args:
        png: the texts of a PNG by keyword.
    """
    png = png or {}
    info = picture.info
    tags: Any = getattr(picture, "tag_v2", {})
    resources = info.get("photoshop")
    iptc = resources.get(_IPTC_RESOURCE) if isinstance(resources, dict) else None
    exif, comment, shot = tags.get(_DESCRIPTION), None, b""
    # of its own, since that of the picture takes part in decoding
    block = Image.Exif()
    with suppress(Exception):  # a broken EXIF block raises anything
        if data := info.get("exif") or png.get(PNG_EXIF):
            block.load(data)
        elif tags:
            block.bigtiff, block.endian = tags._bigtiff, tags._endian
            block.load_from_fp(picture.fp, tags._offset)  # type: ignore[attr-defined]  # a TIFF has a file
        exif = exif or block.get(_DESCRIPTION)
        shot = shot_of(block)
        comment = block.get_ifd(_EXIF_BLOCK).get(_COMMENT)
    return Texts(
        _bytes(info.get("xmp") or png.get(_XMP_KEYWORD) or tags.get(_XMP_TAG)),
        _bytes(iptc or tags.get(_IPTC_TAG) or tags.get(_RESOURCES_TAG)),
        # Pillow reads ASCII as Latin-1, whatever it is
        _bytes(exif, "latin-1") or png.get(_DESCRIPTION_KEYWORD) or png.get(_TITLE_KEYWORD) or b"",
        _bytes(comment),
        shot,
    )


def texts_in(**blocks: bytes) -> Texts:
    """Return what blocks of metadata say that were found in a file: ``exif`` (a TIFF) and ``xmp``."""
    carrier = Image.new("L", (1, 1))
    carrier.info.update(blocks)
    return texts_of(carrier)


def _bytes(value: Any, codec: str = "utf-8") -> bytes:
    if isinstance(value, str):
        try:
            return value.encode(codec)
        except UnicodeEncodeError:
            return value.encode("utf-8", errors="replace")
    return bytes(value) if isinstance(value, bytes | bytearray) else b""
