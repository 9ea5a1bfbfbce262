"""A second embedder beside that of the other tests, and pictures for both."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from PIL import Image
from tests.unit.stand_ins import FakeEmbedder, png

from retllm.db.tables import Embedding, EmbeddingModel, Item
from retllm.embedding import EmbedderInfo
from retllm.errors import ModelUnavailable
from retllm.media.ingest import Ingest
from retllm.queue.worker import WorkerContext

MAIN, LETTERS = "local-dir:embedder", "local-dir:letters"
LETTERS_NAME = "local-dir:/models/letters"


class Letters(FakeEmbedder):
    """Another predictable embedder: it uses the letters of a text, or the brightness of a picture."""

    info = EmbedderInfo(name=LETTERS_NAME, revision="r7", dimension=28, preprocessing_hash="p2")

    def embed_texts(self, texts: Sequence[str], *, query: bool = False) -> np.ndarray:
        rows = np.full((len(texts), 28), 1e-3, dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for letter in text:
                row[string.ascii_lowercase.find(letter)] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def embed_images(self, pictures: Sequence[Image.Image], *, query: bool = False) -> np.ndarray:
        rows = np.zeros((len(pictures), 28), dtype=np.float32)
        for row, picture in zip(rows, pictures, strict=True):
            row[26:] = np.asarray(picture.convert("L")).mean() + 1, 100
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def both(name: str) -> Any:
    return Letters() if name == LETTERS_NAME else FakeEmbedder()


def letters_are_broken(name: str) -> Any:
    if name == LETTERS_NAME:
        raise ModelUnavailable("There is no folder /models/letters.")
    return FakeEmbedder()


def even(_: object) -> tuple[float, float]:
    """Gives every candidate the same score, so that the coarse order is kept."""
    return 0.5, 0.1


def set_up(context: WorkerContext, world, **settings: object) -> WorkerContext:
    world.settings = world.settings.model_copy(update=settings)
    return dataclasses.replace(context, settings=world.settings)


def vectors(world) -> dict[str, set[str]]:
    """The names of the items that each embedder has embedded."""
    query = sa.select(EmbeddingModel.name, Item.name).join_from(Embedding, EmbeddingModel).join(Item)
    found: dict[str, set[str]] = {}
    with world.sessions() as session:
        for model, item in session.execute(query):
            found.setdefault(model, set()).add(item)
    return found


def add_pictures(context: WorkerContext, world, **captions: str | None) -> None:
    """Add a picture of a different colour for each caption; None stands for no caption."""
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    for number, (name, text) in enumerate(captions.items()):
        ingest.add_picture(f"{name}.png", png((10 + 40 * number, 90, 200 - 30 * number)), text=text)


def params_of(world, job_id: object) -> dict[str, Any]:
    params: dict[str, Any] = world.job(job_id).params
    return params
