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
# ITU-T H.273, table 2: the primaries of BT.709, BT.2020, DCI-P3 and Display P3
_PRIMARIES = {
    1: _SRGB_POINTS,
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
# table 3: pictures with the curves of video are made for the screens of sRGB
_SRGB_CURVES = (1, 6, 13, 14, 15)
_EXPONENTS = {4: 2.2, 5: 2.8, 8: 1.0}
_PQ, _HLG = 16, 18
_CURVE = 4096  # values of a curve
_WHITE = 203.0  # cd/m2: what HDR shows as white paper (ITU-R BT.2408); what is brighter is shown as white
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_HEADER = 128
Levels = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


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
        exponent = struct.pack(">IH", 1, min(65535, round(256 / gamma)))
        return _matrix_profile(exponent, _colorants(points))
    except np.linalg.LinAlgError:
        return None


def from_code_points(primaries: int, transfer: int) -> bytes | None:
    """Make a profile of code points of ITU-T H.273, as in PNG and HEIF; None if they mean sRGB or are unknown."""
    light = _light(transfer, np.linspace(0, 1, _CURVE))
    if primaries not in _PRIMARIES or light is None or (primaries == 1 and transfer in _SRGB_CURVES):
        return None
    values = np.rint(np.clip(light, 0, 1) * 65535).astype(">u2")
    return _matrix_profile(struct.pack(">I", len(values)) + values.tobytes(), _colorants(_PRIMARIES[primaries]))


def _light(transfer: int, signal: Levels) -> Levels | None:
    """Return the light that a signal from 0 to 1 stands for, 1 for white; None for an unknown curve."""
    if transfer in _SRGB_CURVES:
        return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    if transfer in _EXPONENTS:
        return np.asarray(signal ** _EXPONENTS[transfer])
    if transfer == _PQ:  # SMPTE ST 2084
        power = signal ** (32 / 2523)
        return np.asarray(
            10_000 / _WHITE * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (8192 / 1305)
        )
    if transfer == _HLG:  # ARIB STD-B67, on a screen of 1,000 cd/m2
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        return np.asarray(1_000 / _WHITE * scene**1.2)
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


def _colorants(points: tuple[float, ...]) -> Levels:
    """Return the XYZ of red, green and blue as columns, adapted to D50 (Bradford), as profiles have them."""
    white, *primaries = ([x / y, 1.0, (1 - x - y) / y] for x, y in zip(points[::2], points[1::2], strict=True))
    matrix = np.array(primaries).T
    matrix = matrix * np.linalg.solve(matrix, np.array(white))
    response = (_BRADFORD @ _D50) / (_BRADFORD @ np.array(white))
    return np.asarray(np.linalg.inv(_BRADFORD) @ np.diag(response) @ _BRADFORD @ matrix)


def _matrix_profile(curve: bytes, colorants: Levels) -> bytes:
    """Return an RGB profile (ICC.1:2001) of three colorants and one curve: the number of its values, and these."""
    curve = b"curv" + bytes(4) + curve + bytes(-len(curve) % 4)
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


def _xyz(values: Levels) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(float(value) * 65536) for value in values))
