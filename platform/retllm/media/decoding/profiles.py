"""Colour profiles: transforms to sRGB, and a profile for the gamma and the primaries that a PNG may name instead."""

from __future__ import annotations

import io
import struct
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

# a transform that changes no colour by more than this, of 255, is left out: most profiles are sRGB itself
_UNSEEN = 1
_SRGB_GAMMA = 2.2
_NEAR = 0.05
_SRGB_POINTS = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # x and y of white, red, green, blue
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_HEADER = 128


class UnusableProfile(Exception):
    """The profile is damaged, or fits no picture of this kind."""


@lru_cache(maxsize=8)
def to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of a picture in ``mode`` (L, RGB, CMYK or LAB) to sRGB; None if it would change nothing.

    The intent is perceptual.

    Raises:
        UnusableProfile: damaged, or for another kind of picture.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.PERCEPTUAL
        )
        sample = _sample(mode)
        if sample is None:
            return transform
        changed = np.asarray(ImageCms.applyTransform(sample, transform), dtype=np.int16)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise UnusableProfile from error
    return transform if np.abs(changed - np.asarray(sample.convert("RGB"))).max() > _UNSEEN else None


def color_space(profile: bytes) -> str:
    """Return what a profile describes, by its header: RGB, GRAY, CMYK, Lab or another."""
    return profile[16:20].decode("latin-1").strip()


def from_png(gamma: float | None, points: tuple[float, ...] | None) -> bytes | None:
    """Make a profile of PNG's chunks gAMA and cHRM: x and y of white, red, green and blue; None if they mean sRGB."""
    gamma = gamma if gamma is not None and 0.1 <= gamma <= 10 else 1 / _SRGB_GAMMA
    points = points or _SRGB_POINTS
    if len(points) != len(_SRGB_POINTS) or min(points[1::2]) <= 0:
        return None
    if abs(gamma * _SRGB_GAMMA - 1) < _NEAR and np.allclose(points, _SRGB_POINTS, atol=0.005):
        return None
    try:
        return _matrix_profile(1 / gamma, _colorants(points))
    except np.linalg.LinAlgError:
        return None


def _sample(mode: str) -> Image.Image | None:
    """Return colours all over the cube as a picture, None for modes that can't be compared with RGB."""
    if mode == "L":
        return Image.frombytes("L", (256, 1), bytes(range(256)))
    if mode == "RGB":
        steps = np.linspace(0, 255, 9).astype(np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3)
        return Image.fromarray(np.ascontiguousarray(grid))
    return None


def _colorants(points: tuple[float, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return the XYZ of red, green and blue as columns, adapted to D50 (Bradford), as profiles have them."""
    white, *primaries = ([x / y, 1.0, (1 - x - y) / y] for x, y in zip(points[::2], points[1::2], strict=True))
    matrix = np.array(primaries).T
    matrix = matrix * np.linalg.solve(matrix, np.array(white))
    response = (_BRADFORD @ _D50) / (_BRADFORD @ np.array(white))
    return np.asarray(np.linalg.inv(_BRADFORD) @ np.diag(response) @ _BRADFORD @ matrix)


def _matrix_profile(exponent: float, colorants: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bytes:
    """Return an RGB profile (ICC.1:2001) of one exponent and three colorants."""
    curve = b"curv" + bytes(4) + struct.pack(">IHxx", 1, min(65535, round(exponent * 256)))
    values = {b"wtpt": _xyz(_D50), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    values |= {name: _xyz(colorants[:, at]) for at, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    table, body = struct.pack(">I", len(values)), b""
    start = _HEADER + 4 + 12 * len(values)
    for name, value in values.items():
        table += struct.pack(">4sII", name, start + len(body), len(value))
        body += value
    size = _HEADER + len(table) + len(body)
    head = struct.pack(">I4xI4s4s4s12x4s", size, 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp").ljust(68, b"\0")
    return (head + _xyz(_D50)[8:]).ljust(_HEADER, b"\0") + table + body


def _xyz(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(float(value) * 65536) for value in values))
