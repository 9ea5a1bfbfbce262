"""How well near-duplicates are told from other pictures: drawn scenes, and each of them changed in several ways.

For each change: of how many scenes the changed picture counts as a near-duplicate of the scene, by the hashes alone and
by hashes and vectors. And how many pairs of different scenes count as such, of all pairs.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from PIL.Image import Resampling

from retllm.demo.scenes import random_scene, render
from retllm.duplicates.grouping import HASH_DISTANCE, SIMILAR_DISTANCE, SIMILARITY
from retllm.media import decoder
from retllm.media.decoding.perceptual import perceptual_hash

if TYPE_CHECKING:
    # at run time this name imports torch
    from retllm.embedding import Embedder

Change = Callable[[Image.Image], Image.Image]
Hashes = NDArray[np.uint64]

HASH_DISTANCES = (2, 4, 6, 8, 10, 12)
"""The distances of hashes that are compared with the one in use."""
_EDGE, _SEED = 512, 1
# EXIF: turned by 90 degrees to the left
_ORIENTATION, _TURNED = 0x0112, 6


def _resized(picture: Image.Image, share: float) -> Image.Image:
    size = round(picture.width * share), round(picture.height * share)
    return picture.resize(size, Resampling.LANCZOS)


def _compressed(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def _cropped(picture: Image.Image, share: float) -> Image.Image:
    """Cut so much of the width and the height off, one half on each side."""
    x, y = (round(side * share / 2) for side in picture.size)
    return picture.crop((x, y, picture.width - x, picture.height - y))


def _brightened(picture: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(picture).enhance(factor)


def _turned(picture: Image.Image) -> Image.Image:
    """Store the picture lying on its side with the orientation that makes it upright; read it as an upload is read."""
    lying, exif, file = picture.transpose(Image.Transpose.ROTATE_90), Image.Exif(), io.BytesIO()
    exif[_ORIENTATION] = _TURNED
    lying.save(file, "JPEG", quality=90, exif=exif)
    return decoder.load(file.getvalue(), _EDGE * _EDGE)


CHANGES: Mapping[str, Change] = {
    "resized to a half": partial(_resized, share=0.5),
    "resized to a quarter": partial(_resized, share=0.25),
    "JPEG of quality 60": partial(_compressed, quality=60),
    "JPEG of quality 20": partial(_compressed, quality=20),
    "20 % brighter": partial(_brightened, factor=1.2),
    "20 % darker": partial(_brightened, factor=0.8),
    "turned by EXIF": _turned,
    "cropped by 2 %": partial(_cropped, share=0.02),
    "cropped by 5 %": partial(_cropped, share=0.05),
    "cropped by 10 %": partial(_cropped, share=0.1),
}
"""What is done with each scene."""


@dataclass(frozen=True)
class Told:
    """The share of pairs that count as near-duplicates: by hashes of each distance, and by the rule in use.

    ``with_vectors`` is the rule with hashes and vectors.
    """

    by_hash: Mapping[int, float]
    in_use: float
    with_vectors: float | None


@dataclass(frozen=True)
class DuplicateQuality:
    """The result: the recall of each change, and what is told of pairs of different scenes."""

    scenes: int
    embedder: str | None
    recall: Mapping[str, Told]
    false: Told

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON."""
        return asdict(self)


def measure_duplicates(scenes: int, embedder: Embedder | None) -> DuplicateQuality:
    """Measure it on so many scenes; without an embedder by hashes alone."""
    rng = random.Random(_SEED)  # noqa: S311 - not a secret
    pictures = [render(random_scene(rng, held_out=True), _EDGE) for _ in range(scenes)]
    hashes, vectors = _seen(pictures, embedder)
    recall = {}
    for name, change in CHANGES.items():
        changed, of_changed = _seen([change(picture) for picture in pictures], embedder)
        similarities = (vectors * of_changed).sum(axis=1) if vectors is not None and of_changed is not None else None
        recall[name] = _told(np.bitwise_count(hashes ^ changed), similarities)
    one, other = np.triu_indices(scenes, k=1)
    between = (vectors @ vectors.T)[one, other] if vectors is not None else None
    false = _told(np.bitwise_count(hashes[one] ^ hashes[other]), between)
    return DuplicateQuality(scenes, embedder.info.name if embedder else None, recall, false)


def _seen(pictures: Sequence[Image.Image], embedder: Embedder | None) -> tuple[Hashes, NDArray[np.float32] | None]:
    """Return the hashes of pictures and their vectors."""
    hashes = np.array([perceptual_hash(picture) for picture in pictures], dtype=np.int64).view(np.uint64)
    if embedder is None:
        return hashes, None
    prepared = [embedder.prepare(picture) for picture in pictures]
    batches = [embedder.embed_prepared(prepared[start : start + 64]) for start in range(0, len(prepared), 64)]
    return hashes, np.concatenate(batches)


def _told(distances: NDArray[Any], similarities: NDArray[np.float32] | None) -> Told:
    by_hash = {distance: float((distances <= distance).mean()) for distance in HASH_DISTANCES}
    near = distances <= HASH_DISTANCE
    with_vectors = None
    if similarities is not None:
        both = near | ((similarities >= SIMILARITY) & (distances <= SIMILAR_DISTANCE))
        with_vectors = float(both.mean())
    return Told(by_hash, float(near.mean()), with_vectors)
