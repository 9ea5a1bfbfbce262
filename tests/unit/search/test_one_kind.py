"""Embedders that take only texts or only pictures, and those with prompts for queries."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image
from tests.unit.stand_ins import FakeEmbedder, FakeScorer, index, png, run, search, view_of
from tests.unit.two_embedders import LETTERS, LETTERS_NAME, MAIN, Letters, add_pictures, even, set_up, vectors

from retllm.db.enums import ItemKind, JobState, UnitState
from retllm.db.tables import Item
from retllm.queue.audit import violations
from retllm.queue.worker import WorkerContext
from retllm.search.submit import StoredPicture


class TextsOnly(Letters):
    """Takes no pictures."""

    info = dataclasses.replace(Letters.info, pictures=False)

    def embed_images(self, pictures: Sequence[Image.Image], *, query: bool = False) -> np.ndarray:
        raise AssertionError("it was given a picture")


class PicturesOnly(Letters):
    """Takes no texts."""

    info = dataclasses.replace(Letters.info, texts=False)

    def embed_texts(self, texts: Sequence[str], *, query: bool = False) -> np.ndarray:
        raise AssertionError("it was given a text")


def with_texts_only(name: str) -> Any:
    return TextsOnly() if name == LETTERS_NAME else FakeEmbedder()


def with_pictures_only(name: str) -> Any:
    return PicturesOnly() if name == LETTERS_NAME else FakeEmbedder()


@pytest.fixture
def context(context: WorkerContext, world) -> WorkerContext:
    return set_up(context, world, extra_embedders=(LETTERS_NAME,))


def stored_picture(context: WorkerContext) -> StoredPicture:
    context.storage.put("queries/q.png", png((10, 90, 200)))
    return StoredPicture("queries/q.png", "0" * 64)


def test_an_embedder_of_texts_takes_captions_and_refuses_pictures_without_one(context: WorkerContext, world) -> None:
    add_pictures(context, world, a="two birds", b=None)
    world.add_texts("moon")
    job_id = index(context, world, with_texts_only)
    assert vectors(world) == {MAIN: {"a.png", "b.png", "moon"}, LETTERS: {"a.png", "moon"}}
    assert world.job(job_id).state is JobState.PARTIAL
    (dead,) = [unit for unit in world.units(job_id) if unit.state is UnitState.DEAD]
    assert f"b.png: The embedder {LETTERS} takes only texts, and this item has none. Give it a text" in dead.error
    assert dead.attempt == 1, "another attempt could not help"
    assert violations(world.sessions, quiet=True) == []


def test_a_caption_that_comes_later_is_embedded(context: WorkerContext, world) -> None:
    add_pictures(context, world, b=None)
    index(context, world, with_texts_only)
    with world.sessions.begin() as session:
        session.execute(sa.update(Item).values(text="a bird", kind=ItemKind.BOTH, version=Item.version + 1))
    index(context, world, with_texts_only)
    assert vectors(world)[LETTERS] == {"b.png"}


def test_an_embedder_of_pictures_refuses_texts(context: WorkerContext, world) -> None:
    add_pictures(context, world, a="two birds")
    world.add_texts("moon")
    job_id = index(context, world, with_pictures_only)
    assert vectors(world)[LETTERS] == {"a.png"}
    assert "takes only pictures, and this item has none" in str(world.job(job_id).error)


def test_a_search_skips_an_embedder_that_cannot_take_the_query(context: WorkerContext, world) -> None:
    add_pictures(context, world, a="two birds", b="moon")
    index(context, world, with_texts_only)
    search_id = search(world, picture=stored_picture(context), k=2, coarse={"embedders": [MAIN, LETTERS]})
    run(context, world, search_id, FakeScorer(even), with_texts_only)
    view = view_of(world, search_id)
    assert view.job.state is JobState.SUCCEEDED
    unused = {source.name: source.unused for source in view.sources}
    assert unused[MAIN] is None
    assert "takes only texts, and this query has none" in unused[LETTERS]


def test_a_search_whose_only_embedder_cannot_take_the_query_fails_with_the_reason(
    context: WorkerContext, world
) -> None:
    add_pictures(context, world, a="two birds")
    index(context, world, with_texts_only)
    search_id = search(world, picture=stored_picture(context), coarse={"embedders": [LETTERS]})
    run(context, world, search_id, FakeScorer(even), with_texts_only)
    job = world.job(search_id)
    assert job.state is JobState.FAILED
    assert "takes only texts, and this query has none" in str(job.error)


def test_only_the_text_of_a_query_is_embedded_by_an_embedder_of_texts(context: WorkerContext, world) -> None:
    add_pictures(context, world, a="bbbb", b="zzzz")
    index(context, world, with_texts_only)
    asked = {"k": 2, "coarse": {"embedders": [LETTERS]}}
    search_id = search(world, picture=stored_picture(context), text="zzzz", **asked)
    run(context, world, search_id, FakeScorer(even), with_texts_only)
    assert [row.name for row in view_of(world, search_id).candidates] == ["b.png", "a.png"]


def test_a_query_is_embedded_as_a_query_and_an_item_as_an_item(context: WorkerContext, world) -> None:
    asked: list[tuple[str, bool]] = []

    class Recording(FakeEmbedder):
        def embed_texts(self, texts: Sequence[str], *, query: bool = False) -> np.ndarray:
            asked.extend(("text", query) for _ in texts)
            return super().embed_texts(texts, query=query)

        def embed_images(self, pictures: Sequence[Image.Image], *, query: bool = False) -> np.ndarray:
            asked.extend(("picture", query) for _ in pictures)
            return super().embed_images(pictures, query=query)

    main_only = set_up(context, world, extra_embedders=())
    add_pictures(main_only, world, a="two birds")
    index(main_only, world, lambda _: Recording())
    assert sorted(asked) == [("picture", False), ("text", False)]
    asked.clear()
    search_id = search(world, picture=stored_picture(context), text="birds")
    run(main_only, world, search_id, FakeScorer(even), lambda _: Recording())
    assert sorted(asked) == [("picture", True), ("text", True)]
