"""Crops pictures whose sides differ so much that scaling them would take gigabytes."""

from __future__ import annotations

from PIL import Image

MAX_RATIO = 64
"""Ratio of the longer to the shorter side above which a picture is cropped."""


def crop_long(picture: Image.Image) -> Image.Image:
    """Return the centre of a picture whose ratio exceeds ``MAX_RATIO``, and any other picture as it is.

    For models that scale the shorter side to their input size and then take the centre: they see nothing of the rest,
    but scaling it would enlarge a picture of 100,000 x 1 pixels to millions of pixels.
    """
    width, height = picture.size
    longest = MAX_RATIO * min(width, height)
    if max(width, height) <= longest:
        return picture
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return picture.crop((left, top, left + min(width, longest), top + min(height, longest)))
