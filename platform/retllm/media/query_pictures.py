"""The files of a query's picture, in a folder of their own: the original, a thumbnail and, if needed, a working copy.

They are made in one decode when the query is asked, or copied from those of an item or an earlier query; nothing is
decoded to show them. Queries of earlier releases have the original alone.
"""

from __future__ import annotations

import io
import re
from typing import BinaryIO

import structlog

from retllm.db.tables import Item, new_id
from retllm.errors import NotFound
from retllm.media import copies, pictures
from retllm.media.pictures import Inspected
from retllm.media.storage import Storage
from retllm.settings import Settings

log = structlog.get_logger(__name__)

_FOLDER = re.compile("queries/[^/]+")


def inspect(stream: BinaryIO, settings: Settings) -> Inspected:
    """Decode the whole picture (seekable) once, within the limit of queries.

    Raises:
        MediaRejected, TooLarge, StackError: as in :func:`retllm.media.pictures.inspect_picture`; TooLarge also for a
            file of more than ``max_file_bytes``.
    """
    pictures.check_length(stream, settings)
    most = min(settings.max_pixels, settings.max_query_pixels)
    return pictures.inspect_picture(stream, settings, most, "RETLLM_MAX_QUERY_PIXELS")


def store(storage: Storage, settings: Settings, stream: BinaryIO, made: Inspected) -> str:
    """Store a picture (seekable) with what was made of it; return its key.

    Raises:
        StorageFull: the storage is full; nothing is kept.
    """
    key = _new_key()
    try:
        stream.seek(0)
        storage.put(key, stream)
        storage.put(thumbnail_key(key), io.BytesIO(made.thumbnail))
        if made.copy:
            storage.put(copies.key_beside(key, settings), io.BytesIO(made.copy))
    except BaseException:
        delete(storage, key)
        raise
    return key


def copy_of_item(storage: Storage, settings: Settings, item: Item) -> str:
    """Store the picture of an item as that of a query; return its key.

    Raises:
        NotFound: the item has no picture, or its file is missing.
    """
    files = {"picture": item.picture_key, "thumbnail": item.thumbnail_key}
    if copies.side_of(item) == settings.copy_side:
        files["copy"] = item.copy_key
    if item.picture_key is None:
        raise NotFound("This item has no picture.", item_id=str(item.id))
    return _copied(storage, settings, files)


def copy_of_query(storage: Storage, settings: Settings, key: str) -> str:
    """Store the picture of an earlier query as that of another one; return its key.

    Raises:
        NotFound: its file is missing.
    """
    files = {"picture": key, "thumbnail": thumbnail_key(key), "copy": copies.key_beside(key, settings)}
    return _copied(storage, settings, dict(files))


def _copied(storage: Storage, settings: Settings, files: dict[str, str | None]) -> str:
    key = _new_key()
    targets = {"picture": key, "thumbnail": thumbnail_key(key), "copy": copies.key_beside(key, settings)}
    try:
        for part, source in files.items():
            if source is None:
                continue
            try:
                storage.copy(source, targets[part])
            except NotFound:
                # what was made of it can be made again
                if part == "picture":
                    raise
    except BaseException:
        delete(storage, key)
        raise
    return key


def delete(storage: Storage, key: str) -> None:
    """Delete a query's picture with all that was made of it."""
    folder = folder_of(key)
    if folder is None:
        storage.delete(key)
    else:
        storage.delete_folder(folder)


def folder_of(key: str) -> str | None:
    """Return the folder that the picture has for itself; None if it has none."""
    folder = key.rpartition("/")[0]
    return folder if _FOLDER.fullmatch(folder) else None


def thumbnail_key(key: str) -> str:
    """Return the key of the thumbnail of a query's picture."""
    return f"{key.rpartition('/')[0]}/thumbnail.webp"


def _new_key() -> str:
    return f"queries/{new_id()}/picture"
