"""A JPEG that is damaged between its begin and its end has a remark that says so, and a sound one has none."""

from __future__ import annotations

import io
import re
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.media.samples import encoded, noise

from retllm.errors import MediaRejected
from retllm.media.pictures import inspect_picture
from retllm.settings import Settings

PICTURE = noise(7, (160, 128))
INSIDE = "The file is damaged in the middle: parts of the picture may be wrong."


@pytest.mark.parametrize(
    ("options", "damages"),
    [
        ({}, ("random", "missing")),
        ({"optimize": True}, ("random", "missing", "zeros")),
        ({"restart_marker_rows": 2}, ("random", "missing", "zeros", "ones")),
        ({"progressive": True}, ("random", "missing", "zeros")),
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_of_a_jpeg_that_is_damaged_in_the_middle_the_remark_says_so(
    options: dict[str, Any], damages: tuple[str, ...], mode: str, settings: Settings
) -> None:
    smooth = [noise(seed, (20, 15)).resize((320, 240)).getchannel(0) for seed in range(4)]
    sound = encoded(Image.merge(mode, smooth[: len(mode)]), "JPEG", quality=95, **options)
    at, size = len(sound) // 2, 1_000
    places = {
        "random": np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8).tobytes(),
        "missing": b"",
        "zeros": bytes(size),
        "ones": b"\xff" * size,
    }
    remarks = {INSIDE}
    for damage in damages:
        damaged = sound[:at] + places[damage] + sound[at + size :]
        with suppress(MediaRejected):  # of some damage a part is seen to be missing
            remarks.add(inspect_picture(io.BytesIO(damaged), settings).remark or f"none: {damage}")
    assert remarks == {INSIDE}
    assert inspect_picture(io.BytesIO(sound), settings).remark is None


@pytest.mark.parametrize("marker", [0x02, 0x11, 0xAD, 0xBF, 0xE5, 0xFE])
def test_bytes_that_are_left_over_before_any_marker_are_damage(marker: int, settings: Settings) -> None:
    smooth = noise(3, (20, 15)).resize((320, 240))
    sound = encoded(smooth, "JPEG", quality=95, restart_marker_rows=2)
    end = sound.index(b"\xff\xd1")
    damaged = sound[:end] + b"\x55" * 45 + bytes((0xFF, marker, 0, 8)) + b"\x55" * 6 + sound[end:]
    assert inspect_picture(io.BytesIO(damaged), settings).remark == INSIDE


def test_zeros_are_a_hole_of_a_jpeg_unless_they_stand_for_flat_blocks(settings: Settings) -> None:
    sound = encoded(noise(4, (20, 15)).resize((320, 240)), "JPEG", quality=95)
    flat = Image.new("RGB", (1600, 1600), "white")
    flat.paste(PICTURE)
    flat_file = encoded(flat, "JPEG", optimize=True)
    assert bytes(100) in flat_file[700:]
    for file in (flat_file, sound, sound + bytes(500), sound[:-2] + bytes(70) + sound[-2:]):
        assert inspect_picture(io.BytesIO(file), settings).remark is None
    holes = 0
    for at in range(len(sound) // 4, len(sound) * 3 // 4, 997):
        file = sound[:at] + bytes(300) + sound[at + 300 :]
        with suppress(MediaRejected):  # of some a part is seen to be missing
            assert inspect_picture(io.BytesIO(file), settings).remark == INSIDE
            holes += 1
    assert holes > 10


def test_padding_and_further_pictures_after_a_jpeg_need_no_remark(settings: Settings) -> None:
    data = encoded(PICTURE, "JPEG")
    several = encoded(PICTURE, "MPO", save_all=True, append_images=[noise(2, (160, 120))])
    gray = encoded(Image.new("CMYK", (40, 30), (127,) * 4), "JPEG")
    padded = data[:-2] + bytes(20) + b"\xff\xff" + data[-2:]
    for file in (
        data + bytes(500),
        data + b"\xff" * 3,
        several,
        padded,
        padded + several,
        gray[:-2] + b"\xff\xff" + gray[-2:],
    ):
        assert inspect_picture(io.BytesIO(file), settings).remark is None


@pytest.mark.parametrize("filling", [b"\0", bytes(9), bytes(2_000), b"\7\x08"], ids=["zero", "few", "many", "others"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_rows": 2}, {"optimize": True}], ids=str
)
def test_what_lies_between_the_segments_of_a_jpeg_is_no_damage(
    options: dict[str, Any], filling: bytes, settings: Settings
) -> None:
    sound = encoded(PICTURE, "JPEG", quality=90, **options)
    scan = sound.index(b"\xff\xda")
    hole = sound[: len(sound) // 2] + bytes(300) + sound[len(sound) // 2 + 300 :]
    for found in re.finditer(rb"\xff[\xc0-\xc2\xc4\xda\xdb]", sound):
        at = found.start()
        if at > scan and filling.strip(b"\0"):
            continue  # coefficients may be left over there
        padded = sound[:at] + filling + sound[at:]
        assert pixels(padded) == pixels(sound)
        assert inspect_picture(io.BytesIO(padded), settings).remark is None
        if at <= scan and options:  # otherwise zeros are coefficients
            with suppress(MediaRejected):
                assert inspect_picture(io.BytesIO(hole[:at] + filling + hole[at:]), settings).remark == INSIDE


def test_zeros_in_the_place_of_the_end_of_a_scan_are_damage(settings: Settings) -> None:
    sound = encoded(PICTURE, "JPEG", quality=90, progressive=True)
    ends = [found.start() for found in re.finditer(rb"\xff\xc4", sound)][-2:]
    for end in ends:
        damaged = sound[: end - 40] + bytes(40) + sound[end:]
        assert inspect_picture(io.BytesIO(damaged), settings).remark == INSIDE


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.tobytes()
