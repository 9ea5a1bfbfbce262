"""What EXIF says of how a picture was made, as plain values that are not interpreted here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from PIL import Image

# EXIF 2.32, tables 4, 7 and 15; Windows' XP tags are UTF-16
_MAKE, _MODEL, _CHANGED, _RATING, _XP_TITLE, _XP_KEYWORDS = 0x010F, 0x0110, 0x0132, 0x4746, 0x9C9B, 0x9C9E
_EXIF_BLOCK, _GPS_BLOCK = 0x8769, 0x8825
_TAKEN, _DIGITIZED, _ZONE, _LENS = 0x9003, 0x9004, 0x9011, 0xA434
_LATITUDE_SIDE, _LATITUDE, _LONGITUDE_SIDE, _LONGITUDE = 1, 2, 3, 4
_MAX_CHARS = 4_000


def shot_of(exif: Image.Exif) -> bytes:
    """Return what an EXIF block says as a JSON object; empty if it says nothing. What is damaged counts as absent.

    Its keys are ``make``, ``model``, ``lens``, ``taken``, ``digitized``, ``zone``, ``title`` and ``keywords`` (texts),
    ``rating`` (a number), ``latitude`` and ``longitude`` (degrees).
    """
    block: Mapping[int, Any] = {}
    place: Mapping[int, Any] = {}
    with suppress(Exception):  # a broken EXIF block raises anything
        block = exif.get_ifd(_EXIF_BLOCK)
    with suppress(Exception):
        place = exif.get_ifd(_GPS_BLOCK)
    found = {
        "make": _text(exif.get(_MAKE)),
        "model": _text(exif.get(_MODEL)),
        "lens": _text(block.get(_LENS)),
        "taken": _text(block.get(_TAKEN)),
        "digitized": _text(block.get(_DIGITIZED)),
        "zone": _text(block.get(_ZONE)),
        "rating": _number(exif.get(_RATING)),
        "title": _wide_text(exif.get(_XP_TITLE)),
        "keywords": _wide_text(exif.get(_XP_KEYWORDS)),
        "latitude": _degrees(place.get(_LATITUDE), place.get(_LATITUDE_SIDE), "S"),
        "longitude": _degrees(place.get(_LONGITUDE), place.get(_LONGITUDE_SIDE), "W"),
    }
    told = {name: value for name, value in found.items() if value is not None}
    return json.dumps(told).encode() if told else b""


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        return None
    with suppress(UnicodeError):
        # Pillow reads ASCII as Latin-1, whatever it is
        value = value.encode("latin-1").decode("utf-8")
    return value.split("\0")[0].strip()[:_MAX_CHARS] or None


def _wide_text(value: Any) -> str | None:
    if isinstance(value, tuple):
        with suppress(ValueError, TypeError):
            value = bytes(value)
    if not isinstance(value, bytes):
        return None
    return value.decode("utf-16-le", errors="replace").split("\0")[0].strip()[:_MAX_CHARS] or None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _degrees(value: Any, side: Any, negative: str) -> float | None:
    """Return an angle in degrees, given its degrees, minutes and seconds."""
    with suppress(Exception):  # a fraction may have a denominator of 0
        parts = [float(part) for part in value]
        degrees: float = sum(part / 60**place for place, part in enumerate(parts[:3]))
        side = side.decode("ascii") if isinstance(side, bytes) else str(side)
        if abs(degrees) <= 180:
            return -degrees if side.strip("\0 ").upper() == negative else degrees
    return None
