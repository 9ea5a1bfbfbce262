"""Pictures whose sides differ very much are cropped before they are scaled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from PIL import Image

from retllm.fine import Scorer
from retllm.fine.cropping import crop_long


@pytest.mark.parametrize(
    ("size", "cropped"),
    [
        ((640, 10), (640, 10)),
        ((10, 640), (10, 640)),
        ((641, 10), (640, 10)),
        ((100_000, 1), (64, 1)),
        ((3, 3000), (3, 192)),
        ((1, 1), (1, 1)),
    ],
)
def test_the_longer_side_is_at_most_64_times_the_shorter_one(size: tuple[int, int], cropped: tuple[int, int]) -> None:
    assert crop_long(Image.new("RGB", size)).size == cropped


def test_the_centre_is_kept() -> None:
    picture = Image.new("RGB", (1001, 1))
    picture.putpixel((500, 0), (255, 0, 0))
    cropped = crop_long(picture)
    assert cropped.getpixel((32, 0)) == (255, 0, 0)
    assert crop_long(picture.rotate(90, expand=True)).getpixel((0, 32)) == (255, 0, 0)


@pytest.mark.parametrize(("family", "crops"), [("llava", True), ("llava_next", False), ("qwen2_5_vl", False)])
def test_only_scorers_that_take_the_centre_of_a_picture_crop_it(
    scorer_of: Callable[[str], Scorer], family: str, crops: bool
) -> None:
    # a ratio that Qwen accepts
    picture = Image.new("RGB", (1900, 10))
    fitted = scorer_of(family)._loaded.preparer.pixels.fit(picture)
    assert (max(fitted.size) <= 64 * min(fitted.size)) is crops
