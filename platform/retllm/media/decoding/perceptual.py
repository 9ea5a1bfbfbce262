"""The perceptual hash of a picture: 64 bits that hardly change when it is scaled, compressed or brightened.

Each bit says whether one of the 64 lowest frequencies of the picture (discrete cosine transform, in gray) is above the
median of them (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010).
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from PIL.Image import Resampling

HASH_BITS = 64
NO_HASH = 0
"""Of a picture that shows too little to tell it from others, such as one of a single colour."""
_SIDE, _LOWEST = 32, 8
# standard deviation in gray levels below which a picture is flat
_FLAT = 2.0

_ANGLES = np.pi * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE)
_COSINES = np.cos(np.arange(_LOWEST + 1)[:, None] * _ANGLES)


def perceptual_hash(picture: Image.Image) -> int:
    """Return the hash of an upright picture as a signed number of 64 bits; ``NO_HASH`` of a flat one."""
    small = picture.convert("L").resize((_SIDE, _SIDE), Resampling.BOX)
    levels = np.asarray(small, dtype=np.float64)
    if levels.std() < _FLAT:
        return NO_HASH
    frequencies = _COSINES @ levels @ _COSINES.T
    lowest = frequencies[:_LOWEST, :_LOWEST].copy()
    # the first one only says how bright the picture is
    lowest[0, 0] = frequencies[_LOWEST, 0]
    bits = lowest.ravel() > np.median(lowest)
    return int(np.packbits(bits).view(">i8")[0])
