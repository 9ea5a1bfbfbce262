"""The perceptual hash of a picture stays nearly the same when the picture is changed, and is stored with its item."""

from __future__ import annotations

import io
import random

import pytest
from PIL import Image
from tests.unit.stand_ins import png

from retllm.bench.duplicates import CHANGES
from retllm.demo.scenes import random_scene, render
from retllm.duplicates.grouping import HASH_DISTANCE
from retllm.media import messages
from retllm.media.decoder import make_small
from retllm.media.decoding.perceptual import NO_HASH, perceptual_hash
from retllm.media.pictures import inspect_picture
from retllm.settings import Settings

UNCHANGED = ("resized to a half", "JPEG of quality 60", "20 % darker", "turned by EXIF", "cropped by 2 %")


def scene(number: int) -> Image.Image:
    return render(random_scene(random.Random(number), held_out=True), 512)


def distance(one: int, other: int) -> int:
    return ((one ^ other) & (1 << 64) - 1).bit_count()


@pytest.mark.parametrize("name", UNCHANGED)
def test_a_changed_picture_has_nearly_the_same_hash(name: str) -> None:
    far = [
        number
        for number in range(40)
        if distance(perceptual_hash(scene(number)), perceptual_hash(CHANGES[name](scene(number)))) > HASH_DISTANCE
    ]
    assert len(far) <= 2


def test_different_pictures_have_different_hashes() -> None:
    hashes = [perceptual_hash(scene(number)) for number in range(40)]
    near = [(i, j) for i in range(40) for j in range(i) if distance(hashes[i], hashes[j]) <= HASH_DISTANCE]
    assert len(near) <= 2


def test_a_picture_of_one_colour_has_no_hash() -> None:
    assert perceptual_hash(Image.new("RGB", (40, 30), "red")) == NO_HASH
    assert perceptual_hash(Image.new("L", (1, 1))) == NO_HASH


def test_the_decoder_hashes_the_upright_picture() -> None:
    picture = scene(1)
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    made = make_small(file.getvalue(), 512 * 512, 320, 80)
    assert distance(made.hash, perceptual_hash(picture)) <= 2
    assert -(1 << 63) <= made.hash < 1 << 63


def test_an_upload_has_the_hash_of_its_picture(tmp_path) -> None:
    file = io.BytesIO()
    scene(2).save(file, "PNG")
    settings = Settings(home=tmp_path)
    found = inspect_picture(file, settings)
    assert found.perceptual_hash is not None
    assert distance(found.perceptual_hash, perceptual_hash(scene(2))) <= 2
    assert inspect_picture(png((9, 9, 9)), settings).perceptual_hash == NO_HASH


@pytest.mark.parametrize("said", [None, "7", 1.5, True, 1 << 63, -(1 << 63) - 1])
def test_a_hash_that_is_none_is_not_taken_from_a_decoder(said: object) -> None:
    assert messages.hash_of({"hash": said}) is None
