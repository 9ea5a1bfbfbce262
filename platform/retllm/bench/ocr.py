"""How much of the text in pictures is read, and how long it takes: words on signs in drawn scenes.

Pictures have words in letters of one size each. Every picture is read at several sizes, so that the table tells which
size of picture is needed for which letters.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Resampling

from retllm.demo.scenes import random_scene, render
from retllm.ocr.reader import Reader

LETTERS = (10, 14, 20, 28, 40, 60, 90)
"""Sizes of the letters in pixels of a picture of ``SIDES[0]``."""
SIDES = (2000, 1600, 1200, 800, 400)
"""Longer sides at which pictures are read, the largest first; the first one is that at which they are drawn."""
WORDS = (
    *("harbour", "station", "exit", "bakery", "museum", "garden", "closed", "platform", "ticket", "summer", "river"),
    *("market", "library", "school", "window", "bridge", "coffee", "street", "winter", "orange", "doctor", "castle"),
)
_SEED, _EDGE, _MARGIN, _MANY = 1, 512, 20, 1_000_000


@dataclass(frozen=True)
class OcrQuality:
    """The result.

    Attributes:
        pictures: how many were drawn with letters of each size.
        threads: of the CPU, for one picture.
        seconds: the median of one picture, by its longer side.
        recall: the share of the words that were read, by the size of the letters and the longer side of the picture.
    """

    pictures: int
    threads: int
    seconds: Mapping[int, float]
    recall: Mapping[int, Mapping[int, float]]

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON."""
        return asdict(self)


def measure_ocr(
    pictures: int, threads: int, *, letters: Sequence[int] = LETTERS, sides: Sequence[int] = SIDES
) -> OcrQuality:
    """Measure it on so many pictures with letters of each size.

    Raises:
        ModelUnavailable: what reads text is not installed.
    """
    reader = Reader(threads)
    rng = random.Random(_SEED)  # noqa: S311 - not a secret
    # what is only done once
    reader.read(Image.new("RGB", (64, 64)), 1)
    seconds: dict[int, list[float]] = {side: [] for side in sides}
    recall: dict[int, dict[int, float]] = {}
    for size in letters:
        drawn = [draw(rng, size) for _ in range(pictures)]
        recall[size] = {}
        for side in sides:
            shares = []
            for picture, words in drawn:
                shares.append(_share(reader, _at(picture, side), words, seconds[side]))
            recall[size][side] = sum(shares) / len(shares)
    return OcrQuality(pictures, threads, {side: median(found) for side, found in seconds.items()}, recall)


def draw(rng: random.Random, size: int) -> tuple[Image.Image, list[str]]:
    """Draw a scene with words in letters of this size, each on a sign of its own; return the words too."""
    width, height = SIDES[0], SIDES[0] * 3 // 4
    picture = render(random_scene(rng, held_out=True), _EDGE).resize((width, height), Resampling.BICUBIC)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    words = rng.sample(WORDS, 12)
    shown: list[str] = []
    # each in a row of its own, so that no two are in one line
    row = height // len(words)
    for number, word in enumerate(words):
        box = pen.textbbox((0, 0), word, font=font)
        x = rng.randrange(_MARGIN, max(_MARGIN + 1, int(width - box[2]) - _MARGIN))
        y = number * row + (row - size) // 2
        sign = (x - size // 2, y - size // 4, x + box[2] + size // 2, y + box[3] + size // 4)
        dark = rng.random() < 0.5
        pen.rectangle(sign, fill="navy" if dark else "white")
        pen.text((x, y), word, font=font, fill="white" if dark else "black")
        shown.append(word)
    return picture, shown


def _at(picture: Image.Image, side: int) -> Image.Image:
    if side == max(picture.size):
        return picture
    scale = side / max(picture.size)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Resampling.LANCZOS)


def _share(reader: Reader, picture: Image.Image, words: Sequence[str], seconds: list[float]) -> float:
    """Return the share of the words that is read, and note how long it took."""
    began = time.perf_counter()
    found = reader.read(picture, _MANY)
    seconds.append(time.perf_counter() - began)
    read = set(found.text.casefold().split())
    return sum(word in read for word in words) / len(words)
