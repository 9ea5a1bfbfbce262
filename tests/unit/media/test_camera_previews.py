"""A raw file that LibRaw can't read is shown by the largest preview that its camera put into it."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from tests.unit.media.raws import dng, unknown
from tests.unit.media.samples import encoded, noise
from tests.unit.media.test_pictures import is_like, quarters

from retllm.errors import MediaRejected, TooLarge
from retllm.media import decoder
from retllm.media.decoding.facts import Refused
from retllm.media.decoding.previews import largest
from retllm.media.pictures import inspect_picture
from retllm.settings import Settings

KINDS = ["CR2", "NEF", "ARW", "RW2", "RAF", "CR3"]
LARGE, SMALL = quarters((320, 240)), Image.new("RGB", (32, 24), "gray")
JPEGS = [
    encoded(LARGE, "JPEG", quality=95, subsampling=0),
    encoded(Image.new("RGB", (64, 48)), "JPEG"),
    encoded(SMALL, "JPEG"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_preview_of_an_unknown_camera_is_taken_with_a_remark(kind: str, settings: Settings) -> None:
    seen = inspect_picture(io.BytesIO(unknown(kind, JPEGS)), settings)
    assert (seen.width, seen.height) == LARGE.size
    assert "the camera's own preview" in str(seen.remark)
    with Image.open(io.BytesIO(seen.thumbnail)) as small:
        assert is_like(small.convert("RGB"), quarters(small.size), tolerance=40)


@pytest.mark.usefixtures("decoding_here")
@pytest.mark.parametrize("kind", ["CR2", "NEF", "ARW", "CR3"])
def test_such_a_preview_is_upright(kind: str) -> None:
    made = decoder.load(unknown(kind, JPEGS, orientation=6), 10**6)
    assert is_like(made, LARGE.transpose(Image.Transpose.ROTATE_270), tolerance=40)
    turned = Image.Exif()
    turned[274] = 3
    own = [encoded(LARGE, "JPEG", quality=95, subsampling=0, exif=turned)]
    made = decoder.load(unknown(kind, own, orientation=6), 10**6)
    assert made.size == LARGE.size  # what the preview says of itself counts


@pytest.mark.usefixtures("decoding_here")
@pytest.mark.parametrize("kind", ["CR2", "NEF", "CR3"])
def test_a_damaged_preview_is_passed_over(kind: str) -> None:
    data = unknown(kind, [JPEGS[0][:600], JPEGS[1], JPEGS[2]])
    assert decoder.load(data, 10**6).size == (64, 48)


@pytest.mark.usefixtures("decoding_here")
@pytest.mark.parametrize("change", [lambda jpeg: jpeg[:-200], lambda jpeg: jpeg.replace(b"\xff\xc0", b"\xff\xc3", 1)])
def test_a_raw_file_with_a_damaged_preview_is_developed(change: Callable[[bytes], bytes]) -> None:
    """A cut preview, and one that is a lossless JPEG."""
    preview = encoded(noise(1, (64, 48)), "JPEG")
    taken = np.asarray(decoder.load(dng(preview=preview), 10**6))
    np.testing.assert_array_equal(taken, np.asarray(decoder.load(preview, 10**6)))
    developed = np.asarray(decoder.load(dng(preview=change(preview)), 10**6))
    np.testing.assert_array_equal(developed, np.asarray(decoder.load(dng(), 10**6)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_raw_file_without_a_readable_preview_is_called_by_its_name(kind: str, settings: Settings) -> None:
    data = unknown(kind, [b"\xff\xd8\xff" + bytes(300)] * 3)
    with pytest.raises(MediaRejected, match=r"of a camera that LibRaw does not know|damaged"):
        inspect_picture(io.BytesIO(data), settings)


def test_a_preview_has_the_limit_of_pixels(settings: Settings) -> None:
    few = settings.model_copy(update={"max_pixels": 320 * 240 - 1})
    with pytest.raises(TooLarge, match=r"76,800 pixels \(320 × 240\)"):
        inspect_picture(io.BytesIO(unknown("NEF", JPEGS)), few)


@pytest.mark.usefixtures("decoding_here")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_any_change_to_such_a_file_gives_a_picture_or_a_reason(kind: str) -> None:
    data, chance = unknown(kind, [JPEGS[2]] * 3), np.random.default_rng(7)
    for _ in range(60):
        changed = bytearray(data)
        for place in chance.integers(8, len(data), 12):
            changed[place] = chance.choice((0, 1, 8, 0x7F, 0xFF))
        largest(bytes(changed))
        try:
            decoder.load(bytes(changed), 10**6)
        except Refused:
            continue
