"""Pictures and archives for tests."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from retllm.media.pictures import load_picture
from retllm.settings import Settings


def noise(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """RGB noise of width × height; each seed gives another picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The picture as a file of this format."""
    made = io.BytesIO()
    picture.save(made, kind, **options)
    return made.getvalue()


def picture(seed: int = 0, size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    """Noise as a file."""
    return encoded(noise(seed, size), kind)


def as_json(value: object) -> bytes:
    """A JSON file of this value."""
    return json.dumps(value, indent=1).encode()


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A ZIP of these files, in this order."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return made.getvalue()


def packed(files: Mapping[str, bytes]) -> io.BytesIO:
    """The same ZIP as an open file."""
    return io.BytesIO(zipped(files))


def shown(data: bytes, settings: Settings) -> np.ndarray[Any, Any]:
    """The pixels of a picture as models get them."""
    return np.asarray(load_picture(io.BytesIO(data), settings))
