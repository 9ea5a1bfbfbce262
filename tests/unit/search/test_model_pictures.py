"""Embedders and scorers get working copies or originals, as the settings say, as items and as queries."""

from __future__ import annotations

import dataclasses
import io

import pytest
from PIL import Image
from tests.unit.media.samples import encoded, noise
from tests.unit.stand_ins import FakeEmbedder, FakeScorer, index, run, search

from retllm.fine import Content
from retllm.media.ingest import Ingest
from retllm.queue.worker import WorkerContext
from retllm.search.submit import StoredPicture

LARGE = encoded(noise(1, (9, 6)).resize((1200, 800)), "JPEG")


class Embedder(FakeEmbedder):
    """Keeps the sizes of the pictures that it is given."""

    def __init__(self, least_side: int) -> None:
        self.least_side = least_side
        self.sizes: list[tuple[int, int]] = []

    def prepare(self, picture: Image.Image) -> Image.Image:
        self.sizes.append(picture.size)
        return picture

    def embed_images(self, pictures, *, query: bool = False):
        self.sizes += [picture.size for picture in pictures if query]
        return super().embed_images(pictures, query=query)


@pytest.mark.parametrize(
    ("source", "least_side", "embedded", "scored"),
    [
        ("copy", 0, (300, 200), (300, 200)),
        ("copy", 60, (150, 100), (300, 200)),
        ("original", 0, (1200, 800), (1200, 800)),
        # a JPEG is decoded to a half, a quarter or an eighth
        ("original", 90, (150, 100), (1200, 800)),
    ],
)
def test_models_get_what_the_settings_say(
    context: WorkerContext, world, source: str, least_side: int, embedded: tuple[int, int], scored: tuple[int, int]
) -> None:
    world.settings = world.settings.model_copy(update={"copy_side": 300, "model_pictures": source})
    context = dataclasses.replace(context, settings=world.settings)
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    assert ingest.add_picture("a.jpg", io.BytesIO(LARGE)).status == "added"
    embedder, sizes = Embedder(least_side), []

    def answer(content: Content) -> tuple[float, float]:
        assert content.picture is not None
        sizes.append(content.picture.rgb().size)
        return 0.5, 0.1

    index(context, world, lambda _: embedder)
    context.storage.put("queries/q/picture", io.BytesIO(LARGE))
    found = search(world, StoredPicture("queries/q/picture", "0" * 64), k=1)
    run(context, world, found, FakeScorer(answer), lambda _: embedder)
    assert embedder.sizes == [embedded, embedded]
    assert sizes == [scored]
