"""Generated photographs: as large, as detailed and as noisy as those of a camera, each different."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH = 4000
"""Width in pixels: 12 megapixels, as the height is three quarters of it."""
# detail of several sizes: cells along the width of each layer, and its contrast
_LAYERS = ((5, 110), (40, 50), (320, 25), (1600, 12))
_NOISE = 8  # of the sensor, at most, in levels of 255
_QUALITY = 92


def write_photographs(folder: Path, count: int, seed: int = 0, width: int = WIDTH) -> list[Path]:
    """Write ``count`` JPEGs into the folder, of 3 to 4 MB each at 12 megapixels; return their paths.

    Raises:
        ValueError: more than one for each pixel of a photograph.
    """
    rng = np.random.default_rng(seed)
    height = width * 3 // 4
    pixels = np.full((height, width, 3), 128, dtype=np.int16)
    for cells, contrast in _LAYERS:
        small = rng.integers(0, 256, (max(1, cells * height // width), cells, 3), dtype=np.uint8)
        layer = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        pixels += (layer - 128) * contrast // 128
    pixels += rng.integers(-_NOISE, _NOISE + 1, (height, width, 1), dtype=np.int16)
    scene = np.clip(pixels, 0, 255).astype(np.uint8)
    paths = []
    # another part of the scene each time, which is much faster than another scene
    for number, place in enumerate(rng.choice(height * width, count, replace=False)):
        shift = divmod(int(place), width)
        path = folder / f"{number:04}.jpg"
        file = io.BytesIO()
        Image.fromarray(np.roll(scene, shift, axis=(0, 1))).save(file, "JPEG", quality=_QUALITY)
        path.write_bytes(file.getvalue())
        paths.append(path)
    return paths
