"""Convert decoded pictures of every mode and colour profile to 8-bit sRGB."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageCms

from retllm.media.decoding import deep, profiles, tones
from retllm.media.decoding.facts import Blemish, Source

# what a profile describes -> the mode of the pictures it fits
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}


def to_rgb(source: Source) -> Image.Image:
    """Return the decoded picture as sRGB over white; ``source.picture`` itself if it is that already."""
    profile = _profile(source)
    if tones.has_more_bits(source.picture):
        made = _managed(tones.to_gray(source), profile, source)
        if isinstance(clear := source.picture.info.get("transparency"), int):
            made.paste("white", mask=Image.fromarray(np.asarray(source.picture) == clear))
        return made
    picture = deep.shown(source)
    if picture.mode == "RGB" and not picture.has_transparency_data:
        return _managed(picture, profile, source)
    if not picture.has_transparency_data or _is_unused(picture):
        base = picture if picture.mode in ("L", "CMYK", "LAB") else picture.convert("RGB")
        return _managed(base, profile if picture.mode != "1" else None, source)
    layer = picture.convert("RGBA")
    gray = picture.getchannel("L") if picture.mode in ("L", "LA") else None
    opaque = _managed(gray or layer.convert("RGB"), profile, source)
    white = Image.new("RGB", layer.size, "white")
    white.paste(opaque, mask=layer.getchannel("A"))
    return white


def _is_unused(picture: Image.Image) -> bool:
    """Whether the fourth channel of a BMP is all zero, as programs write it that know of no transparency."""
    return picture.format == "BMP" and picture.mode == "RGBA" and not picture.getchannel("A").getbbox()


def _profile(source: Source) -> bytes | None:
    """Return the picture's profile, or one for what its file says of its colours without a profile."""
    info = source.picture.info
    if source.code_points is not None:
        return profiles.from_code_points(*source.code_points)
    if profile := info.get("icc_profile"):
        return bytes(profile)
    if "srgb" in info or not ("gamma" in info or "chromaticity" in info):
        return None
    return profiles.from_png(info.get("gamma"), info.get("chromaticity"))


def _managed(picture: Image.Image, profile: bytes | None, source: Source) -> Image.Image:
    """Convert L, RGB, CMYK or LAB to sRGB, by the profile if there is a usable one."""
    if not profile:
        return picture.convert("RGB") if picture.mode != "RGB" else picture
    mode = _MODES.get(profiles.color_space(profile), "")
    fitting = picture.convert("RGB") if (picture.mode, mode) == ("L", "RGB") else picture
    try:
        if fitting.mode != mode:
            raise profiles.UnusableProfile
        transform = profiles.to_srgb(profile, mode)
        if transform is not None:
            converted = ImageCms.applyTransform(fitting, transform)
            return converted if converted is not None else fitting
    except (profiles.UnusableProfile, ImageCms.PyCMSError):
        source.blemishes.add(Blemish.PROFILE)
    return _managed(picture, None, source)
