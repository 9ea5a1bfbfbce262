"""Working copies: what models read instead of an original that is large or takes long to decode (design: media).

A copy is made together with the thumbnail. An older item gets its copy when a model first reads it, or by
``retllm copies``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO
from uuid import UUID

import sqlalchemy as sa
import structlog
from PIL import Image
from sqlalchemy.orm import Session

from retllm.db.enums import ItemState
from retllm.db.session import Sessions, run_transaction
from retllm.db.tables import Item
from retllm.errors import MediaRejected, NotFound
from retllm.media import pictures
from retllm.media.decoding import rendering
from retllm.media.storage import Storage
from retllm.settings import Settings

log = structlog.get_logger(__name__)

MEDIA_TYPE = "image/jpeg"
# other formats always get a copy; of these, pictures with other colours than RGB have one too, made at the upload
_PLAIN = ("image/jpeg", "image/png", "image/webp")


def key_beside(picture_key: str, settings: Settings) -> str:
    """Return the storage key of the working copy of a picture, which names the copy's longer side."""
    return f"{picture_key.rpartition('/')[0]}/copy-{settings.copy_side}.jpg"


def side_of(item: Item) -> int | None:
    """Return the longer side that the item's copy was made for, in pixels; None if it has no copy."""
    found = re.search(r"/copy-(\d+)\.jpg$", item.copy_key or "")
    return int(found[1]) if found else None


def is_shown_as_it_is(item: Item, side: int) -> bool:
    """Return whether the item has a copy of at most ``side`` pixels that shows as much as one of that size."""
    made = side_of(item)
    size = item.width or 0, item.height or 0
    if made is None or not all(size):
        return False
    longer = max(rendering.copy_size(*size, made))
    return longer <= side and longer >= min(side, max(size))


def needs_copy(item: Item, settings: Settings) -> bool:
    """Return whether the item's picture is too large, or of a format too slow, to be read without a copy."""
    size = item.width or 0, item.height or 0
    if item.picture_key is None or not all(size):
        return False
    wanted = rendering.copy_size(*size, settings.copy_side)
    return max(wanted) <= rendering.MAX_COPY_SIDE and (item.media_type not in _PLAIN or wanted != size)


def lacks_copy(settings: Settings) -> sa.ColumnElement[bool]:
    """Return a condition for ready items that may need a copy and have none of the configured size."""
    longer = sa.func.greatest(Item.width, Item.height)
    return sa.and_(
        Item.state == ItemState.READY,
        Item.picture_key.is_not(None),
        sa.or_(longer > settings.copy_side, Item.media_type.not_in(_PLAIN)),
        sa.or_(Item.copy_key.is_(None), sa.not_(Item.copy_key.like(f"%/copy-{settings.copy_side}.jpg"))),
    )


@dataclass(frozen=True)
class ModelPictures:
    """Opens the pictures of items as models read them: the working copies, or the originals, by the settings.

    Thread-safe.
    """

    sessions: Sessions
    storage: Storage
    settings: Settings

    def open(self, item: Item, min_side: int = 0) -> Image.Image:
        """Return the item's picture as upright RGB; a copy that is missing or damaged is made and kept.

        Args:
            item: a detached row of an item with a picture.
            min_side: a JPEG may be decoded smaller, with both sides at least so many pixels; 0 means its full size.

        Raises:
            NotFound: the item has no picture (any more), or its file is missing.
            MediaRejected: the stored original is damaged.
            StorageFull: there is no room for the copy.
            StackError: no decoder process can be started.
        """
        if not self._reads_copy(item):
            return pictures.open_picture(self.storage, item, self.settings, min_side)
        data = self._copy(item)
        try:
            return self._picture(item, data, min_side)
        except MediaRejected:
            if not self._has_copy(item):
                raise
            log.warning("a working copy is damaged, and is made again", item_id=str(item.id), key=item.copy_key)
            return self._picture(item, self.make(item), min_side)

    def open_file(self, stream: BinaryIO, min_side: int = 0) -> Image.Image:
        """Return the picture in ``stream`` (seekable), which is no item's, as :meth:`open` returns that of an item.

        Raises:
            MediaRejected, TooLarge, StackError: as in :func:`retllm.media.pictures.load_picture`.
        """
        if self.settings.model_pictures == "copy":
            data = pictures.make_copy(stream, self.settings.max_pixels, self.settings)
            if data:
                return pictures.load_stored(io.BytesIO(data), self.settings, min_side)
        return pictures.load_picture(stream, self.settings, min_side)

    def key(self, item: Item) -> str:
        """Return what identifies the pixels that :meth:`open` returns."""
        copy = f"-copy-{self.settings.copy_side}" if self._reads_copy(item) else ""
        return item.content_sha256 + copy

    def decoded_bytes(self, item: Item, min_side: int = 0) -> int:
        """Return the bytes of pixels of the largest picture that exists while :meth:`open` decodes."""
        size = item.width or 0, item.height or 0
        if not self._reads_copy(item):
            return pictures.decoded_bytes(size, item.media_type, (min_side, min_side))
        wanted = rendering.copy_size(*size, self.settings.copy_side)
        if self._has_copy(item):
            return pictures.decoded_bytes(wanted, MEDIA_TYPE, (min_side, min_side))
        return pictures.decoded_bytes(size, item.media_type, wanted)

    def make(self, item: Item) -> bytes:
        """Make and keep the copy of the item's picture; return its file, empty if the picture needs none.

        Safe if others make the same copy, or delete the item, at the same time.

        Raises:
            The errors of :meth:`open`.
        """
        if item.picture_key is None:
            raise NotFound("This item has no picture.", item_id=str(item.id))
        with self.storage.open(item.picture_key) as stream:
            data = pictures.make_copy(stream, (item.width or 0) * (item.height or 0), self.settings)
        if not data:
            return data
        key = key_beside(item.picture_key, self.settings)
        self.storage.put(key, io.BytesIO(data))
        former = run_transaction(self.sessions, lambda session: name_copy(session, item.id, key))
        # the item was deleted, and with it its files, or it had a copy of another size
        for unused in former:
            self.storage.delete(unused)
        return data

    def _picture(self, item: Item, copy: bytes, min_side: int) -> Image.Image:
        if not copy:
            return pictures.open_picture(self.storage, item, self.settings, min_side)
        return pictures.load_stored(io.BytesIO(copy), self.settings, min_side)

    def is_gone(self, item: Item) -> bool:
        """Return whether the item was deleted for good since it was read."""
        with self.sessions() as session:
            return session.scalar(sa.select(Item.state).where(Item.id == item.id)) in (None, ItemState.DELETED)

    def _copy(self, item: Item) -> bytes:
        if self._has_copy(item):
            try:
                with self.storage.open(item.copy_key or "") as file:
                    if data := file.read():
                        return data
            except NotFound:
                pass
            # worth a line: files that vanish are a fault of the storage, unless the item is deleted just now
            log.warning("a working copy is missing or empty", item_id=str(item.id), key=item.copy_key)
        return self.make(item)

    def _has_copy(self, item: Item) -> bool:
        return item.copy_key is not None and item.copy_key == key_beside(item.picture_key or "", self.settings)

    def _reads_copy(self, item: Item) -> bool:
        return self.settings.model_pictures == "copy" and (self._has_copy(item) or needs_copy(item, self.settings))


def name_copy(session: Session, item_id: UUID, key: str) -> Sequence[str]:
    """Name the copy in the item's row; return the keys of files that no row names now."""
    there = sa.select(Item).where(Item.id == item_id, Item.state != ItemState.DELETED)
    item = session.scalar(there.with_for_update(key_share=True).execution_options(populate_existing=True))
    if item is None:
        return [key]
    former, item.copy_key = item.copy_key, key
    return [former] if former not in (None, key) else []
