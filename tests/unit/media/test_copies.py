"""Working copies: which pictures have one, what it shows, and that it follows its item."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from PIL import Image
from tests.unit.deleting import delete_collection
from tests.unit.media.outcomes import Items, Stored
from tests.unit.media.samples import encoded, noise

from retllm.cli.copies import copies as command
from retllm.db.enums import ItemState
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Item
from retllm.errors import MediaRejected, NotFound
from retllm.media import copies, decoder
from retllm.media.copies import ModelPictures
from retllm.media.decoding import rendering
from retllm.media.ingest import Ingest, delete_item
from retllm.media.pictures import load_picture
from retllm.media.storage import Storage
from retllm.settings import Settings


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"copy_side": 400})


@pytest.fixture
def pictures(media_sessions: Sessions, storage: Storage, settings: Settings) -> ModelPictures:
    return ModelPictures(media_sessions, storage, settings)


def smooth(size: tuple[int, int]) -> Image.Image:
    """A picture without fine detail, whose pixels hardly depend on how it was scaled."""
    return noise(3, (8, 6)).resize(size, Image.Resampling.BICUBIC)


def add(ingest: Ingest, picture: Image.Image, kind: str = "JPEG", **options: object) -> None:
    assert ingest.add_picture("a.jpg", io.BytesIO(encoded(picture, kind, **options))).status == "added"


def without_copy(media_sessions: Sessions, storage: Storage, item: Item) -> Item:
    """The item as an earlier release stored it."""
    storage.delete(str(item.copy_key))
    with transaction(media_sessions) as session:
        session.execute(sa.update(Item).where(Item.id == item.id).values(copy_key=None))
    with media_sessions() as session:
        return session.get_one(Item, item.id)


@pytest.mark.parametrize(
    ("size", "copy"),
    [
        ((400, 300), (400, 300)),
        ((1200, 900), (400, 300)),
        ((900, 1200), (300, 400)),
        ((800, 400), (400, 200)),
        # long pictures: the shorter side keeps 200 pixels
        ((4000, 400), (2000, 200)),
        ((4000, 100), (4000, 100)),
        ((1, 4000), (1, 4000)),
    ],
)
def test_the_size_of_a_copy(size: tuple[int, int], copy: tuple[int, int]) -> None:
    assert rendering.copy_size(*size, 400) == copy


def test_a_large_picture_gets_an_upright_copy_without_metadata_in_one_decode(
    ingest: Ingest, items: Items, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "where I live"
    add(ingest, smooth((1200, 900)), quality=95, exif=exif, comment="where I live")
    (item,) = items()
    assert item.copy_key == f"{str(item.picture_key).removesuffix('original')}copy-400.jpg"
    with storage.open(item.copy_key) as file:
        data = file.read()
    assert b"where I live" not in data
    with Image.open(io.BytesIO(data)) as copy:
        assert (copy.format, copy.size, copy.layers) == ("JPEG", (300, 400), 3)
        assert [part[1:3] for part in copy.layer] == [(1, 1)] * 3, "chroma is not subsampled"
        expected = np.asarray(smooth((1200, 900)).transpose(Image.Transpose.ROTATE_270).resize((300, 400)), int)
        assert np.abs(np.asarray(copy, int) - expected).max() <= 12


def _cmyk() -> Image.Image:
    return smooth((120, 90)).convert("CMYK")


@pytest.mark.parametrize(
    ("picture", "kind", "has_copy"),
    [
        (lambda: smooth((400, 300)), "JPEG", False),
        (lambda: smooth((400, 300)), "PNG", False),
        (lambda: smooth((120, 90)).convert("L"), "WEBP", False),
        (lambda: smooth((4000, 100)), "PNG", False),
        (_cmyk, "JPEG", True),
        (lambda: Image.fromarray(np.full((90, 120), 30_000, np.uint16)), "PNG", True),
        (lambda: smooth((120, 90)), "TIFF", True),
        (lambda: smooth((120, 90)), "GIF", True),
    ],
)
def test_a_small_picture_gets_a_copy_only_if_it_is_not_plain(
    picture: Callable[[], Image.Image], kind: str, has_copy: bool, ingest: Ingest, items: Items, pictures: ModelPictures
) -> None:
    add(ingest, picture(), kind)
    (item,) = items()
    assert (item.copy_key is not None) is has_copy
    size = picture().size
    opened = pictures.open(item)
    assert (opened.mode, opened.size) == ("RGB", size)


def test_a_profile_makes_a_small_picture_not_plain(ingest: Ingest, items: Items) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    add(ingest, smooth((120, 90)), icc_profile=profile)
    assert items()[0].copy_key is not None


def test_models_read_the_copy_or_the_original_as_the_settings_say(
    ingest: Ingest, items: Items, pictures: ModelPictures, storage: Storage, settings: Settings
) -> None:
    add(ingest, smooth((1200, 900)), quality=95)
    (item,) = items()
    assert pictures.open(item).size == (400, 300)
    assert pictures.open(item, 100).size == (200, 150)
    original = ModelPictures(pictures.sessions, storage, settings.model_copy(update={"model_pictures": "original"}))
    assert original.open(item).size == (1200, 900)
    assert original.open(item, 100).size == (150, 113)
    assert (original.settings.picture_source, settings.picture_source) == ("original", "copy:400")
    assert original.key(item) == item.content_sha256
    assert pictures.key(item) not in (item.content_sha256, "")
    assert pictures.decoded_bytes(item, 100) == 4 * 200 * 150
    assert original.decoded_bytes(item, 100) == 4 * 150 * 113


def test_a_query_has_the_pixels_of_an_item_with_the_same_picture(
    ingest: Ingest, items: Items, pictures: ModelPictures, storage: Storage, settings: Settings
) -> None:
    add(ingest, noise(5, (900, 700)), quality=95)
    (item,) = items()
    for mode in ("copy", "original"):
        read = ModelPictures(pictures.sessions, storage, settings.model_copy(update={"model_pictures": mode}))
        with storage.open(str(item.picture_key)) as file:
            assert read.open_file(file, 100).tobytes() == read.open(item, 100).tobytes()
    small = io.BytesIO(encoded(smooth((120, 90)), "JPEG"))
    assert pictures.open_file(small).size == (120, 90)


def test_an_older_item_gets_its_copy_when_it_is_first_read(
    ingest: Ingest, items: Items, pictures: ModelPictures, storage: Storage, media_sessions: Sessions
) -> None:
    add(ingest, smooth((1200, 900)), quality=95)
    older = without_copy(media_sessions, storage, items()[0])
    assert pictures.decoded_bytes(older) == 4 * 600 * 450, "the original is decoded to the copy"
    first = pictures.open(older)
    (item,) = items()
    assert storage.exists(str(item.copy_key))
    np.testing.assert_array_equal(np.asarray(pictures.open(item)), np.asarray(first))


def test_a_copy_that_was_lost_or_has_another_size_is_made_again(
    ingest: Ingest, items: Items, pictures: ModelPictures, storage: Storage, stored: Stored, settings: Settings
) -> None:
    add(ingest, smooth((1200, 900)), quality=95)
    (item,) = items()
    storage.delete(str(item.copy_key))
    assert pictures.open(item).size == (400, 300)
    assert storage.exists(str(item.copy_key))
    larger = ModelPictures(pictures.sessions, storage, settings.model_copy(update={"copy_side": 600}))
    assert larger.open(item).size == (600, 450)
    assert [key.rpartition("/")[2] for key in stored()] == ["copy-600.jpg", "original", "thumbnail.webp"]


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"x" * len(data)]
)
def test_a_damaged_copy_is_made_again(
    ingest: Ingest,
    items: Items,
    pictures: ModelPictures,
    storage: Storage,
    damage: Callable[[bytes], bytes],
) -> None:
    add(ingest, smooth((1200, 900)), quality=95)
    (item,) = items()
    key = str(item.copy_key)
    with storage.open(key) as file:
        whole = file.read()
    expected = np.asarray(pictures.open(item))
    storage.put(key, io.BytesIO(damage(whole)))
    np.testing.assert_array_equal(np.asarray(pictures.open(item)), expected)
    with storage.open(key) as file:
        assert file.read() == whole
    storage.put(key, io.BytesIO(damage(whole)))
    storage.put(str(item.picture_key), io.BytesIO(b"neither is whole"))
    with pytest.raises(MediaRejected):
        pictures.open(item)


def test_several_workers_make_the_same_copy_at_once(
    ingest: Ingest, items: Items, pictures: ModelPictures, storage: Storage, media_sessions: Sessions, stored: Stored
) -> None:
    add(ingest, smooth((1200, 900)), quality=95)
    older = without_copy(media_sessions, storage, items()[0])
    meeting = threading.Barrier(4, timeout=60)

    def read(_: int) -> bytes:
        meeting.wait()
        return pictures.open(older).tobytes()

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(read, range(4)))) == 1
    assert [key.rpartition("/")[2] for key in stored()] == ["copy-400.jpg", "original", "thumbnail.webp"]


def test_a_copy_made_while_its_item_is_deleted_leaves_no_file(
    ingest: Ingest,
    items: Items,
    pictures: ModelPictures,
    storage: Storage,
    media_sessions: Sessions,
    stored: Stored,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(ingest, smooth((1200, 900)), quality=95)
    older = without_copy(media_sessions, storage, items()[0])
    put = Storage.put

    def deleted_meanwhile(self: Storage, key: str, file: io.BytesIO) -> int:
        count = put(self, key, file)
        with media_sessions() as session:
            delete_item(session, storage, session.get_one(Item, older.id))
        return count

    monkeypatch.setattr(Storage, "put", deleted_meanwhile)
    assert pictures.open(older).size == (400, 300)
    assert stored() == []
    assert pictures.is_gone(older)
    with pytest.raises(NotFound):
        pictures.open(older)


def test_deleting_an_item_or_a_collection_deletes_the_copy(
    ingest: Ingest, items: Items, storage: Storage, media_sessions: Sessions, stored: Stored
) -> None:
    for seed in range(2):
        assert ingest.add_picture("a", io.BytesIO(encoded(noise(seed, (600, 500)), "JPEG"))).status == "added"
    assert len(stored()) == 6
    with media_sessions() as session:
        delete_item(session, storage, session.get_one(Item, items()[0].id))
    assert len(stored()) == 3
    assert items()[0].copy_key is None
    delete_collection(media_sessions, storage, ingest.collection_id)
    assert stored() == []


def test_a_refused_insert_leaves_no_copy(ingest: Ingest, media_sessions: Sessions, stored: Stored) -> None:
    delete_collection(media_sessions, ingest.storage, ingest.collection_id)
    with pytest.raises(NotFound):
        add(ingest, smooth((1200, 900)))
    assert stored() == []


def test_the_command_makes_missing_copies_and_reports_pictures_that_cannot_be_read(
    ingest: Ingest,
    items: Items,
    storage: Storage,
    media_sessions: Sessions,
    database_url: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed in range(3):
        ingest.add_picture(f"{seed}.jpg", io.BytesIO(encoded(noise(seed, (600, 500)), "JPEG")))
    for item in items():
        without_copy(media_sessions, storage, item)
    kept = storage.open(str(items()[1].picture_key)).read()
    storage.put(str(items()[1].picture_key), io.BytesIO(b"\xff\xd8\xff damaged"))
    for name, value in (("DATABASE_URL", database_url), ("RETLLM_HOME", str(settings.home)), ("RETLLM_COPY_SIDE", 400)):
        monkeypatch.setenv(name, str(value))
    options = ["--collection", str(ingest.collection_id)]
    result = CliRunner().invoke(command, options)
    assert (result.exit_code, result.stdout) == (1, "2 working copies made, 1 pictures could not be read.\n")
    assert "1.jpg" in result.stderr
    storage.put(str(items()[1].picture_key), io.BytesIO(kept))
    result = CliRunner().invoke(command, options)
    assert (result.exit_code, result.stdout) == (0, "1 working copies made, 0 pictures could not be read.\n")
    assert all(storage.exists(str(item.copy_key)) for item in items())
    assert all(item.state is ItemState.READY for item in items())


def test_the_audit_knows_the_copies(ingest: Ingest, items: Items, storage: Storage, media_sessions: Sessions) -> None:
    from retllm.queue.audit_files import orphans, wrong_files

    add(ingest, smooth((1200, 900)))
    (item,) = items()
    with media_sessions() as session:
        assert orphans(session, storage) == []
        storage.delete(str(item.copy_key))
        assert [found for found in map(str, wrong_files(session, storage, None)) if str(item.copy_key) in found]


def test_a_copy_has_the_pixels_of_the_upright_original(settings: Settings) -> None:
    data = encoded(smooth((1600, 1200)), "JPEG", quality=95)
    copy = decoder.make_small(data, 10_000_000, 0, 80, copy_side=400)
    assert copy.data == b""
    made = load_picture(io.BytesIO(copy.copy), settings)
    whole = decoder.load(data, 10_000_000).resize((400, 300), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(made, int) - np.asarray(whole, int)).max() <= 10
    assert copies.MEDIA_TYPE == "image/jpeg"
