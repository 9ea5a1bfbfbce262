"""Files become items, each whole or not at all."""

from __future__ import annotations

import io
import uuid
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from retllm.db.enums import ItemKind, ItemState
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Collection, Embedding, EmbeddingModel, Item, new_id
from retllm.errors import NotFound
from retllm.media.ingest import (
    IncomingFile,
    Ingest,
    Outcome,
    delete_collection,
    delete_item,
    open_picture,
)
from retllm.media.storage import Storage
from retllm.settings import Settings

Items = Callable[[], list[Item]]
Stored = Callable[[], list[str]]


def picture(seed: int = 0, size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    """A picture of noise; another seed is another picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, kind)
    return made.getvalue()


def packed(files: dict[str, bytes]) -> io.BytesIO:
    """A ZIP of these files, in this order."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    made.seek(0)
    return made


def statuses(outcomes: list[Outcome]) -> list[tuple[str, str]]:
    return [(outcome.name, outcome.status) for outcome in outcomes]


def test_a_picture_becomes_an_item_with_its_bytes_and_a_thumbnail(
    ingest: Ingest, items: Items, stored: Stored, storage: Storage
) -> None:
    data = picture(size=(200, 100))
    (outcome,) = ingest.add_file("dir/one.png", io.BytesIO(data))
    (item,) = items()
    assert (outcome.status, outcome.item_id, outcome.kind, outcome.error) == ("added", item.id, ItemKind.IMAGE, None)
    assert (item.name, item.width, item.height, item.media_type) == ("dir/one.png", 200, 100, "image/png")
    assert item.size_bytes == len(data)
    assert item.version == 1
    assert item.picture_key is not None
    assert item.thumbnail_key is not None
    assert str(item.id) in item.picture_key
    with storage.open(item.picture_key) as file:
        assert file.read() == data
    with storage.open(item.thumbnail_key) as file, Image.open(file) as small:
        assert (small.format, small.size) == ("WEBP", (64, 32))
    assert stored() == sorted([item.picture_key, item.thumbnail_key])
    assert open_picture(storage, item).size == (200, 100)


def test_the_same_picture_twice_is_one_item(ingest: Ingest, items: Items, stored: Stored) -> None:
    first, second = (ingest.add_file(name, io.BytesIO(picture()))[0] for name in ("a.png", "b.png"))
    assert (first.status, second.status) == ("added", "duplicate")
    assert first.item_id == second.item_id
    assert len(items()) == 1
    assert len(stored()) == 2


def test_the_same_picture_from_many_threads_at_once_is_one_item(ingest: Ingest, items: Items, stored: Stored) -> None:
    threads = 8
    barrier = Barrier(threads)

    def add(number: int) -> Outcome:
        stream = io.BytesIO(picture())
        barrier.wait()
        return ingest.add_picture(f"{number}.png", stream)

    with ThreadPoolExecutor(threads) as pool:
        outcomes = list(pool.map(add, range(threads)))
    assert sorted(outcome.status for outcome in outcomes) == ["added"] + ["duplicate"] * (threads - 1)
    assert len({outcome.item_id for outcome in outcomes}) == 1
    assert len(items()) == 1
    assert len(stored()) == 2  # the files of those who came second are gone


def test_a_text_file_becomes_a_text_item_once(ingest: Ingest, items: Items) -> None:
    (first,) = ingest.add_file("a.txt", io.BytesIO("\ufeffein Gruß\r\naus dem Wald \n".encode()))
    (second,) = ingest.add_file("b.txt", io.BytesIO("ein Gruß\naus dem Wald".encode()))
    assert (first.status, second.status) == ("added", "duplicate")
    (item,) = items()
    assert (item.kind, item.text, item.name) == (ItemKind.TEXT, "ein Gruß\naus dem Wald", "a.txt")
    assert item.picture_key is None


def test_a_zip_takes_pictures_texts_and_captions_whatever_their_order(ingest: Ingest, items: Items) -> None:
    archive = packed(
        {
            "captions.csv": b"file,caption\nphotos/a.png,a cat\nb.png,a dog\nnone.png,a ghost\n,only words\n",
            "photos/a.png": picture(1),
            "photos/b.png": picture(2),
            "note.txt": b"a note",
            "__MACOSX/photos/._a.png": b"junk",
            "photos/.DS_Store": b"junk",
            "photos/Thumbs.db": b"junk",
            "bad.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        }
    )
    outcomes = ingest.add_file("all.zip", archive)
    assert statuses(outcomes) == [
        ("photos/a.png", "added"),
        ("photos/b.png", "added"),
        ("note.txt", "added"),
        ("bad.png", "rejected"),
        ("captions.csv, row 2", "updated"),
        ("captions.csv, row 3", "updated"),
        ("captions.csv, row 4", "rejected"),
        ("captions.csv, row 5", "added"),
    ]
    by_name = {item.name: item for item in items()}
    assert by_name["photos/a.png"].text == "a cat"
    assert by_name["photos/a.png"].kind is ItemKind.BOTH
    assert by_name["photos/b.png"].text == "a dog"
    assert by_name["only words"].kind is ItemKind.TEXT
    assert len(by_name) == 4
