"""How pictures are made smaller: JPEGs by the decoder, and extremely long pictures by a crop."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from tests.unit.media.samples import noise

from retllm.embedding import Embedder, load_embedder
from retllm.media import decoder
from retllm.settings import PRESETS

#: photographs that come with scikit-image
PHOTOGRAPHS = ("astronaut.png", "coffee.png", "chelsea.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg")


def at_twelve_megapixels(name: str) -> bytes:
    """The photograph at 4000 by 3000 pixels with the noise of a sensor, as a JPEG."""
    photograph = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
    pixels = np.asarray(photograph.resize((4000, 3000), Image.Resampling.BICUBIC), dtype=np.int16)
    noise = np.random.default_rng(0).integers(-8, 9, (3000, 4000, 1), dtype=np.int16)
    made = io.BytesIO()
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(made, "JPEG", quality=92)
    return made.getvalue()


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder(PRESETS["demo"].embedder, device="cpu")


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_reduced_size_and_a_working_copy_hardly_change_embedding_and_pixels(name: str, embedder: Embedder) -> None:
    data = at_twelve_megapixels(name)
    whole = decoder.load(data, 12_000_000)
    draft = decoder.load(data, 12_000_000, embedder.least_side)
    assert draft.size == (500, 375), "an eighth of the size"
    copy = decoder.make_small(data, 12_000_000, 0, 80, copy_side=1600).copy
    vectors = embedder.embed_images([whole, draft, decoder.load(copy, 12_000_000, embedder.least_side)])
    assert vectors[0] @ vectors[1] >= 0.999
    assert vectors[0] @ vectors[2] >= 0.999
    np.testing.assert_allclose(embedder.embed_prepared([embedder.prepare(draft)])[0], vectors[1], atol=1e-6)
    for side in (224, 336):
        transform = image_transform_v2(PreprocessCfg(size=side), is_train=False)
        large = decoder.load(data, 12_000_000, 2 * side)
        assert min(large.size) >= 2 * side
        assert large.width < whole.width
        expected = transform(whole)
        assert (expected - transform(large)).abs().max() <= 0.08
        assert (expected - transform(decoder.load(copy, 12_000_000, 2 * side))).abs().max() <= 0.12


def test_the_preprocessing_hash_tells_copies_from_originals_and_is_that_of_originals_as_ever(
    embedder: Embedder,
) -> None:
    name = PRESETS["demo"].embedder
    of_copies, larger = (
        load_embedder(name, device="cpu", picture_source=source).info.preprocessing_hash
        for source in ("copy:1600", "copy:3200")
    )
    assert len({embedder.info.preprocessing_hash, of_copies, larger}) == 3
    original = load_embedder(name, device="cpu", picture_source="original")
    assert original.info.preprocessing_hash == embedder.info.preprocessing_hash


def test_the_preprocessing_hash_depends_on_the_decoding_size(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retllm.embedding.base.JPEG_OVER", 3)
    other = load_embedder(PRESETS["demo"].embedder, device="cpu")
    assert other.least_side == 3 * 64
    assert other.info.preprocessing_hash != embedder.info.preprocessing_hash


def test_an_extremely_long_picture_is_cropped_before_it_is_scaled(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scaling its shorter side to the model's size would take gigabytes; the model sees only the centre."""
    transform, seen = embedder._transform, []

    def recorded(image: Image.Image) -> torch.Tensor:
        seen.append(image.size)
        return transform(image)

    monkeypatch.setattr(embedder, "_transform", recorded)
    long = noise(1, (100_000, 1))
    centre = long.crop((49_968, 0, 50_032, 1))
    np.testing.assert_array_equal(embedder.embed_images([long]), embedder.embed_images([centre]))
    assert seen == [(64, 1), (64, 1)]
    for size in ((640, 10), (10, 600)):
        expected = transform(noise(2, size))
        assert embedder.prepare(noise(2, size)).equal(expected)
