"""The way in: files become items, each whole or not at all (design: media)."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterable
from typing import Any, BinaryIO, Literal

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind
from retllm.db.session import Sessions, run_transaction
from retllm.db.tables import Item, new_id
from retllm.errors import Conflict, MediaRejected, NotFound, TooLarge
from retllm.media import records, streams
from retllm.media.names import clean_name, one_line
from retllm.media.outcomes import FileError, FileOutcome, IncomingFile, rejected
from retllm.media.pictures import decoded_bytes, inspect_picture, load_picture, open_picture
from retllm.media.sniffing import FileKind, sniff
from retllm.media.storage import Storage, get_storage
from retllm.media.texts import clean_text, text_sha256
from retllm.settings import Settings

__all__ = [
    "FileError",
    "FileOutcome",
    "IncomingFile",
    "Ingest",
    "decoded_bytes",
    "delete_collection",
    "delete_item",
    "get_storage",
    "load_picture",
    "open_picture",
]

log = structlog.get_logger(__name__)

# characters of a text that serve as its name
_NAME_OF_TEXT = 80
# in one transaction
_TEXTS_AT_ONCE = 500
# deletions of the same content that may come between looking and inserting
_TRIES = 3


class Ingest:
    """Takes files into one collection. Safe to call from several threads; every item is a transaction of its own.

    A file that can't be taken gives an outcome that says why, and never keeps others out. ``NotFound`` is raised when
    the collection itself is gone.
    """

    def __init__(self, sessions: Sessions, storage: Storage, settings: Settings, collection_id: uuid.UUID) -> None:
        self.sessions = sessions
        self.storage = storage
        self.settings = settings
        self.collection_id = collection_id

    def add_text(self, text: str, name: str | None = None) -> FileOutcome:
        """Take one text; without a name it goes by its beginning."""
        return self.add_texts([(text, name)])[0]

    def add_texts(self, texts: Iterable[tuple[str, str | None]]) -> list[FileOutcome]:
        """Take texts, each with its name or None; many cost few transactions. One outcome for each, in their order."""
        read = [self._read_text(text, name) for text, name in texts]
        clean = [one for one in read if isinstance(one, dict)]
        done: dict[uuid.UUID, FileOutcome] = {}
        for start in range(0, len(clean), _TEXTS_AT_ONCE):
            done |= self._insert_texts(clean[start : start + _TEXTS_AT_ONCE])
        return [one if isinstance(one, FileOutcome) else done.get(one["id"]) or self._add_again(one) for one in read]

    def _read_text(self, text: str, name: str | None) -> dict[str, Any] | FileOutcome:
        shown = clean_name(name) if name else one_line(text[:_NAME_OF_TEXT]) or "text"
        try:
            clean = clean_text(text, self.settings)
        except (MediaRejected, TooLarge) as error:
            return rejected(shown, error)
        return {
            "id": new_id(),
            "kind": ItemKind.TEXT,
            "name": shown,
            "text": clean,
            "media_type": "text/plain",
            "content_sha256": text_sha256(clean),
            "size_bytes": len(clean.encode("utf-8")),
        }

    def _insert_texts(self, values: list[dict[str, Any]]) -> dict[uuid.UUID, FileOutcome]:
        """What became of texts, by the keys that were meant for them; without those that were deleted meanwhile."""
        rows = [{**one, "collection_id": self.collection_id} for one in values]

        def insert(session: Session) -> tuple[set[uuid.UUID], dict[str, records.Known]]:
            added = records.insert_items(session, rows)
            others = [one["content_sha256"] for one in values if one["id"] not in added]
            return added, records.find_contents(session, self.collection_id, others)

        try:
            added, known = run_transaction(self.sessions, insert)
        except sa.exc.IntegrityError as error:
            raise NotFound("The collection is gone.", collection_id=str(self.collection_id)) from error
        done = {}
        for one in values:
            shown, before = one["name"], known.get(one["content_sha256"])
            if one["id"] in added:
                done[one["id"]] = FileOutcome(name=shown, status="added", item_id=one["id"], kind=ItemKind.TEXT)
            elif before is not None:
                done[one["id"]] = FileOutcome(name=shown, status="duplicate", item_id=before.id, kind=before.kind)
        return done

    def _add_again(self, values: dict[str, Any]) -> FileOutcome:
        """Take a text whose like was there and was deleted before it could be read."""
        for _ in range(_TRIES):
            if done := self._insert_texts([values]):
                return done[values["id"]]
        raise Conflict("The same text is being added and deleted over and over: try again.")

    def add_picture(self, name: str, stream: BinaryIO, text: str | None = None) -> FileOutcome:
        """Take one picture, with ``text`` as its caption. ``stream`` is seekable and stays open.

        A picture that is there already keeps its item; a new caption is given to it.
        """
        shown = clean_name(name)
        try:
            if sniff(streams.head(stream), name) is not FileKind.PICTURE:
                raise MediaRejected("The file is no picture. Taken are JPEG, PNG, WebP, GIF, TIFF and BMP.")
            sha256 = streams.digest(stream, self.settings.max_file_bytes)
        except (MediaRejected, TooLarge) as error:
            return rejected(shown, error)
        return self.add_hashed(shown, stream, sha256, text)

    def add_hashed(
        self, name: str, stream: BinaryIO, sha256: str, text: str | None = None, item_id: uuid.UUID | None = None
    ) -> FileOutcome:
        """Take one picture whose name is clean and whose SHA-256 is known; else like :meth:`add_picture`.

        Items are listed by their keys: who adds several at a time gives each its ``item_id`` in the order they came.
        """
        item_id = item_id or new_id()
        try:
            caption = clean_text(text, self.settings) if text and text.strip() else None
            for _ in range(_TRIES):
                done = self._known(name, sha256, caption) or self._stored(item_id, name, stream, sha256, caption)
                if done is not None:
                    return done
        except (MediaRejected, TooLarge) as error:
            return rejected(name, error)
        raise Conflict("The same picture is being added and deleted over and over: try again.")

    def _known(self, name: str, sha256: str, caption: str | None) -> FileOutcome | None:
        def find(session: Session) -> FileOutcome | None:
            item = records.find_by_content(session, self.collection_id, sha256)
            if item is None:
                return None
            if caption is None or item.text == caption:
                return FileOutcome(name=name, status="duplicate", item_id=item.id, kind=item.kind)
            changed = records.set_captions(session, {item.id: caption}).get(item.id)
            if changed is None:
                return None
            status: Literal["updated", "duplicate"] = "updated" if changed else "duplicate"
            return FileOutcome(name=name, status=status, item_id=item.id, kind=ItemKind.BOTH)

        return run_transaction(self.sessions, find)

    def _stored(
        self, item_id: uuid.UUID, name: str, stream: BinaryIO, sha256: str, caption: str | None
    ) -> FileOutcome | None:
        """Store the files, then the row; None when another upload of the same picture came first."""
        seen = inspect_picture(stream, self.settings)
        # a v7 id begins with the time: its last digits spread the folders evenly
        folder = f"items/{item_id.hex[-2:]}/{item_id}"
        original, thumbnail = f"{folder}/original", f"{folder}/thumbnail.webp"
        try:
            stream.seek(0)
            size = self.storage.put(original, stream)
            self.storage.put(thumbnail, io.BytesIO(seen.thumbnail))
        except BaseException:
            self._discard(original, thumbnail)
            raise
        kind = ItemKind.IMAGE if caption is None else ItemKind.BOTH
        values = {
            "id": item_id,
            "kind": kind,
            "name": name,
            "text": caption,
            "content_sha256": sha256,
            "size_bytes": size,
            "media_type": seen.media_type,
            "width": seen.width,
            "height": seen.height,
            "picture_key": original,
            "thumbnail_key": thumbnail,
        }
        try:
            made = self._insert(values)
        except NotFound:
            self._discard(original, thumbnail)
            raise
        # any other error of the database leaves the files: a commit whose answer got lost may have made the row
        if not made:
            self._discard(original, thumbnail)
            return None
        return FileOutcome(name=name, status="added", item_id=item_id, kind=kind)

    def _insert(self, values: dict[str, Any]) -> bool:
        row = {**values, "collection_id": self.collection_id}
        try:
            return run_transaction(self.sessions, lambda session: records.insert_item(session, row))
        except sa.exc.IntegrityError as error:
            raise NotFound("The collection is gone.", collection_id=str(self.collection_id)) from error

    def _discard(self, *keys: str) -> None:
        _delete_files(self.storage, keys)


def delete_item(session: Session, storage: Storage, item: Item) -> None:
    """Delete an item's content: its files, text and embeddings. **Commits** ``session``.

    The row stays, in the state ``deleted``. The commit comes before the files go, so that a crash between the two
    leaves files that nothing names and never an item without its files.
    """
    keys = records.empty_item(session, item.id)
    session.commit()
    _delete_files(storage, keys)


def delete_collection(session: Session, storage: Storage, collection_id: uuid.UUID) -> None:
    """Delete a collection with everything in it. **Commits** ``session``, then removes the files."""
    keys = records.remove_collection(session, collection_id)
    session.commit()
    _delete_files(storage, keys)


def _delete_files(storage: Storage, keys: Iterable[str]) -> None:
    for key in keys:
        try:
            storage.delete(key)
        except Exception as error:  # a file that nothing names does no harm
            log.warning("a file is left over", key=key, error=str(error))
