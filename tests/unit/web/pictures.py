"""Generated pictures."""

from __future__ import annotations

import io

from PIL import Image


def picture(colour: str = "red", form: str = "PNG", size: tuple[int, int] = (32, 24)) -> bytes:
    """Return a picture of one colour as the bytes of a file."""
    target = io.BytesIO()
    Image.new("RGB", size, colour).save(target, form)
    return target.getvalue()
