"""Generated pictures."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image


def picture(colour: str = "red", form: str = "PNG", size: tuple[int, int] = (32, 24)) -> bytes:
    """Return a picture of one colour as the bytes of a file."""
    target = io.BytesIO()
    Image.new("RGB", size, colour).save(target, form)
    return target.getvalue()


def located(latitude: float, longitude: float, colour: str = "teal") -> bytes:
    """Return a JPEG whose EXIF says where it was taken: in whole degrees north and east."""
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x8825] = {1: "N", 2: (latitude, 0.0, 0.0), 3: "E", 4: (longitude, 0.0, 0.0)}
    target = io.BytesIO()
    Image.new("RGB", (48, 32), colour).save(target, "JPEG", exif=exif)
    return target.getvalue()


def place_in(data: bytes) -> dict[int, Any]:
    """Return what a picture's EXIF says of where it was taken."""
    return dict(Image.open(io.BytesIO(data)).getexif().get_ifd(0x8825))
