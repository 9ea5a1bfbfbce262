"""Embedders and scorers get working copies or originals, as the settings say, as items and as queries."""

from __future__ import annotations

import dataclasses
import hashlib
import io

import pytest
import sqlalchemy as sa
from PIL import Image
from tests.unit.media.samples import encoded, noise
from tests.unit.stand_ins import FakeEmbedder, FakeScorer, index, run, search

from retllm.db.searches import Search
from retllm.db.tables import Item
from retllm.fine import Content
from retllm.media import query_pictures
from retllm.media.ingest import Ingest
from retllm.media.parallel import PixelBudget
from retllm.queue.worker import WorkerContext
from retllm.search.fine_pictures import PicturesAhead, query_content
from retllm.search.query_picture import query_picture
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


@pytest.mark.parametrize("source", ["copy", "original"])
@pytest.mark.parametrize("copy_side", [300, 2000])
@pytest.mark.parametrize("least", [0, 100 * 150, 10**9])
def test_a_scorer_takes_a_picture_as_query_for_that_of_an_item_only_if_all_pixels_are_equal(
    context: WorkerContext, world, source: str, copy_side: int, least: int
) -> None:
    world.settings = world.settings.model_copy(update={"copy_side": copy_side, "model_pictures": source})
    context = dataclasses.replace(context, settings=world.settings)
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    assert ingest.add_picture("a.jpg", io.BytesIO(LARGE)).status == "added"
    index(context, world, lambda _: Embedder(0))
    context.storage.put("queries/q/picture", io.BytesIO(LARGE))
    found = search(world, StoredPicture("queries/q/picture", hashlib.sha256(LARGE).hexdigest()), k=1)
    scorer = FakeScorer(lambda _: (0.5, 0.1))
    scorer.least_pixels = least
    with world.sessions() as session:
        item, asked = session.scalars(sa.select(Item)).one(), session.get_one(Search, found)
    ahead = PicturesAhead(context, scorer, [item], PixelBudget(1 << 30))
    as_item, as_query = ahead.content(item).picture, query_content(context, asked).picture
    assert as_item is not None
    assert as_query is not None
    assert as_item.key != as_query.key or as_item.rgb().tobytes() == as_query.rgb().tobytes()
    ahead.close()


def test_models_read_the_copy_that_was_made_when_the_query_was_asked(context: WorkerContext, world) -> None:
    world.settings = world.settings.model_copy(update={"copy_side": 300})
    context = dataclasses.replace(context, settings=world.settings)
    key = query_pictures.store(
        context.storage, world.settings, io.BytesIO(LARGE), query_pictures.inspect(io.BytesIO(LARGE), world.settings)
    )
    with context.storage.open(key) as original:
        expected = context.pictures.open_file(original).tobytes()
    context.storage.delete(key)
    assert query_picture(context, key).tobytes() == expected
    # one of an earlier release has none, and one with another side does not count
    old = query_pictures.copy_of_query(context.storage, world.settings, store_original(context))
    assert query_picture(context, old).tobytes() == expected
    other = dataclasses.replace(context, settings=world.settings.model_copy(update={"copy_side": 400}))
    assert query_picture(other, old).size == (400, 267)


def store_original(context: WorkerContext) -> str:
    context.storage.put("queries/old/picture", io.BytesIO(LARGE))
    return "queries/old/picture"
