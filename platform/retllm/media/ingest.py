"""Ingestion: turn files into items, each completely or not at all (design: media)."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, BinaryIO, Literal

import structlog
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind
from retllm.db.facts import NO_FACTS
from retllm.db.locks import lock_collection
from retllm.db.session import Result, Sessions, run_transaction
from retllm.db.tables import Item, new_id
from retllm.errors import Conflict, DatabaseBusy, MediaRejected, NotFound, TooLarge
from retllm.media import copies, records, streams
from retllm.media.facts import facts_of
from retllm.media.formats import PICTURE_FORMATS
from retllm.media.names import clean_name, one_line
from retllm.media.outcomes import FileError, FileOutcome, IncomingFile, rejected
from retllm.media.parts import RenderedPart
from retllm.media.pictures import Inspected, inspect_picture, load_picture, open_picture
from retllm.media.records import Caption
from retllm.media.references import is_reference, suffix_like
from retllm.media.sheets.embedded import embedded_caption
from retllm.media.sniffing import FileKind, sniff
from retllm.media.storage import Storage, get_storage
from retllm.media.texts import clean_text, text_sha256
from retllm.settings import Settings

__all__ = [
    "FileError",
    "FileOutcome",
    "IncomingFile",
    "Ingest",
    "delete_item",
    "get_storage",
    "load_picture",
    "open_picture",
]

log = structlog.get_logger(__name__)

# a text without a name is named by its first characters
_TEXT_NAME_CHARS = 80
# texts inserted in one transaction
_TEXT_BATCH = 500
CheckedText = dict[str, Any] | FileOutcome
"""The values of a text's item, or the outcome of a text that is rejected."""
# attempts to add an item while items with the same content are deleted concurrently
_TRIES = 3


class Ingest:
    """Adds files to one collection. Thread-safe; every picture has its own transaction.

    A rejected file gets an outcome with the reason and does not affect other files. Methods raise ``NotFound`` if the
    collection was deleted.
    """

    def __init__(self, sessions: Sessions, storage: Storage, settings: Settings, collection_id: uuid.UUID) -> None:
        self.sessions = sessions
        self.storage = storage
        self.settings = settings
        self.collection_id = collection_id

    def add_text(self, text: str, name: str | None = None) -> FileOutcome:
        """Add one text; without a name it is named by its beginning."""
        return self.add_texts([(text, name)])[0]

    def add_texts(self, texts: Iterable[tuple[str, str | None]]) -> list[FileOutcome]:
        """Add texts in batches, each with its name or None; return one outcome for each, in the same order."""
        checked = self.check_texts(texts)
        outcomes: list[FileOutcome] = []
        for start in range(0, len(checked), _TEXT_BATCH):
            insert = partial(self.insert_texts, checked=checked[start : start + _TEXT_BATCH])
            outcomes += self._inside(insert)
        return outcomes

    def check_texts(
        self, texts: Iterable[tuple[str, str | None]], came: records.Came | None = None
    ) -> list[CheckedText]:
        """Return for each text, with its name or None, the values of its item, or why it is rejected.

        Args:
            came: when the file came that they are from; None if they are from none.
        """
        file_id = came.file_id if came else None
        return [self._check_text(text, name, file_id) for text, name in texts]

    def insert_texts(self, session: Session, checked: Sequence[CheckedText]) -> list[FileOutcome]:
        """Insert checked texts in the caller's transaction; return one outcome for each, in the same order."""
        # sorted, so that two uploads of the same texts can't deadlock
        values = sorted((t for t in checked if isinstance(t, dict)), key=lambda text: str(text["content_sha256"]))
        outcomes: dict[uuid.UUID, FileOutcome] = {}
        for start in range(0, len(values), _TEXT_BATCH):
            outcomes |= self._insert_texts(session, values[start : start + _TEXT_BATCH])
        return [entry if isinstance(entry, FileOutcome) else outcomes[entry["id"]] for entry in checked]

    def _check_text(self, text: str, name: str | None, file_id: uuid.UUID | None) -> CheckedText:
        shown = clean_name(name) if name else one_line(text[:_TEXT_NAME_CHARS]) or "text"
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
            "caption_file_id": file_id,
        }

    def _insert_texts(self, session: Session, values: Sequence[dict[str, Any]]) -> dict[uuid.UUID, FileOutcome]:
        """Insert texts; return their outcomes by the new keys."""
        outcomes: dict[uuid.UUID, FileOutcome] = {}
        for _ in range(_TRIES):
            left = [text for text in values if text["id"] not in outcomes]
            rows = [{**text, "collection_id": self.collection_id} for text in left]
            added = records.insert_items(session, rows)
            others = [text["content_sha256"] for text in left if text["id"] not in added]
            known = records.find_contents(session, self.collection_id, others)
            for text in left:
                key, name, existing = text["id"], text["name"], known.get(text["content_sha256"])
                if key in added:
                    outcomes[key] = FileOutcome(name=name, status="added", item_id=key, kind=ItemKind.TEXT)
                elif existing is not None:
                    outcomes[key] = FileOutcome(
                        name=name,
                        status="duplicate",
                        item_id=existing.id,
                        item_name=existing.name,
                        kind=existing.kind,
                    )
            # a duplicate may have been deleted before it was read
            if len(outcomes) == len(values):
                return outcomes
        raise DatabaseBusy("The same text is added and deleted repeatedly by other requests: try again.")

    def add_picture(self, name: str, stream: BinaryIO, text: str | None = None) -> FileOutcome:
        """Add one picture, with ``text`` as its caption. ``stream`` is seekable and stays open.

        A picture that the collection already has keeps its item, which gets the new caption.
        """
        shown = clean_name(name)
        try:
            if sniff(streams.head(stream), name) is not FileKind.PICTURE:
                raise MediaRejected(f"The file is not a picture. Accepted formats: {PICTURE_FORMATS}.")
            sha256 = streams.digest(stream, self.settings.max_file_bytes)
        except (MediaRejected, TooLarge) as error:
            return rejected(shown, error)
        return self.add_hashed(shown, stream, sha256, text)

    def add_hashed(
        self, name: str, stream: BinaryIO, sha256: str, text: str | None = None, item_id: uuid.UUID | None = None
    ) -> FileOutcome:
        """Add one picture whose name is clean and whose SHA-256 is known; otherwise like :meth:`add_picture`.

        Items are listed in the order of their keys: a caller that adds several in parallel assigns each ``item_id`` in
        the order of the files.
        """
        item_id = item_id or new_id()
        try:
            caption = clean_text(text, self.settings) if text and text.strip() else None
            for _ in range(_TRIES):
                outcome = self._find(name, sha256, caption) or self._store(item_id, name, stream, sha256, caption)
                if outcome is not None:
                    return outcome
        except (MediaRejected, TooLarge) as error:
            return rejected(name, error)
        raise Conflict("The same picture is added and deleted repeatedly by other requests: try again.")

    def _find(self, name: str, sha256: str, caption: str | None) -> FileOutcome | None:
        def find(session: Session) -> FileOutcome | None:
            item = records.find_by_content(session, self.collection_id, sha256)
            if item is None:
                return None
            if caption is None or item.text == caption:
                return FileOutcome(name=name, status="duplicate", item_id=item.id, kind=item.kind)
            change = records.set_captions(session, {item.id: Caption(caption)}).get(item.id)
            if change is None:
                return None
            status: Literal["updated", "duplicate"] = "updated" if change.changed else "duplicate"
            return FileOutcome(name=name, status=status, item_id=item.id, kind=ItemKind.BOTH)

        return run_transaction(self.sessions, find)

    def _store(
        self, item_id: uuid.UUID, name: str, stream: BinaryIO, sha256: str, caption: str | None
    ) -> FileOutcome | None:
        """Store the files, then the row; return None if another upload of the same picture was faster."""
        values, remark = self.store_picture(item_id, name, stream, sha256, caption)
        kind, keys = values["kind"], keys_of(values)
        try:
            inserted = self._insert(values)
        except NotFound:
            self.discard(*keys)
            raise
        # keep the files after any other database error: the commit may have succeeded although its response was lost
        if not inserted:
            self.discard(*keys)
            return None
        return FileOutcome(name=name, status="added", item_id=item_id, kind=kind, remark=remark)

    def store_picture(
        self, item_id: uuid.UUID, name: str, stream: BinaryIO, sha256: str, caption: str | None = None
    ) -> tuple[dict[str, Any], str | None]:
        """Decode a picture and store its files; return the values of its item, which is not inserted, and a remark.

        Raises:
            MediaRejected, TooLarge, StackError: as :func:`inspect_picture` does.
        """
        inspected = inspect_picture(stream, self.settings)
        return self.store_inspected(item_id, name, stream, sha256, inspected, caption), inspected.remark

    def store_inspected(
        self,
        item_id: uuid.UUID,
        name: str,
        stream: BinaryIO,
        sha256: str,
        inspected: Inspected | RenderedPart,
        caption: str | None = None,
        *,
        stored: str | None = None,
        repeatable: bool = False,
    ) -> dict[str, Any]:
        """Store the files of a picture that was decoded; return the values of its item, which is not inserted.

        Args:
            caption: without one, the item gets the caption that its file has in itself.
            stored: the storage key of a file with the bytes of ``stream``, which are not moved again then; that of a
                reference makes an item with a referenced original.
            repeatable: other attempts store the same files, so that an error deletes none of them.
        """
        if caption is None and isinstance(inspected, Inspected):
            texts = inspected.texts
            caption = embedded_caption(
                self.settings, name=name, xmp=texts.xmp, iptc=texts.iptc, exif=texts.exif, comment=texts.comment
            )
        folder = item_folder(item_id)
        original, thumbnail = f"{folder}/original{suffix_like(stored)}", f"{folder}/thumbnail.webp"
        copy = copies.key_beside(original, self.settings) if inspected.copy else None
        keys = [key for key in (original, thumbnail, copy) if key]
        try:
            if stored is None:
                stream.seek(0)
                self.storage.put(original, stream)
            else:
                self.storage.copy(stored, original)
            made = {thumbnail: inspected.thumbnail, **({copy: inspected.copy} if copy else {})}
            # each waits for the disk
            with ThreadPoolExecutor(len(made), thread_name_prefix="store") as threads:
                list(threads.map(lambda key: self.storage.put(key, io.BytesIO(made[key])), made))
        except BaseException:
            if not repeatable:
                self.discard(*keys)
            raise
        return {
            "id": item_id,
            "kind": ItemKind.IMAGE if caption is None else ItemKind.BOTH,
            "name": name,
            "text": caption,
            "content_sha256": sha256,
            "size_bytes": streams.length(stream),
            "media_type": inspected.media_type,
            "width": inspected.width,
            "height": inspected.height,
            "picture_key": original,
            "thumbnail_key": thumbnail,
            "copy_key": copy,
            **where_lies(self.storage, original),
            "source_id": None,
            "part": None,
            "perceptual_hash": inspected.perceptual_hash,
            # all rows of one statement have the same columns
            **NO_FACTS,
            **(facts_of(inspected.texts) if isinstance(inspected, Inspected) else {}),
        }

    def _insert(self, values: dict[str, Any]) -> bool:
        row = {**values, "collection_id": self.collection_id}
        return self._inside(lambda session: records.insert_item(session, row))

    def _inside(self, do: Callable[[Session], Result]) -> Result:
        """Call ``do`` in a transaction while the collection is there."""

        def locked(session: Session) -> Result:
            lock_collection(session, self.collection_id)
            return do(session)

        return run_transaction(self.sessions, locked)

    def discard(self, *keys: str) -> None:
        """Delete files that no row names; a file that can't be deleted is left for the sweeper."""
        delete_files(self.storage, keys)


def item_folder(item_id: uuid.UUID) -> str:
    """Return the folder of an item's files in the storage."""
    # a UUID v7 begins with a timestamp; its last digits spread the folders evenly
    return f"items/{item_id.hex[-2:]}/{item_id}"


def where_lies(storage: Storage, key: str) -> dict[str, Any]:
    """Return the columns that say where the original of an item or whole file lies: null for one that is stored."""
    place = storage.reference(key).place if is_reference(key) else None
    return {"original_root": place and place.root, "original_path": place and place.path}


def keys_of(item: Mapping[str, Any]) -> list[str]:
    """Return the storage keys of an item's files, given its column values."""
    return [item[name] for name in ("picture_key", "thumbnail_key", "copy_key") if item[name]]


def delete_item(session: Session, storage: Storage, item: Item) -> bool:
    """Delete an item's content: its files, text and embeddings. **Commits** ``session``.

    Returns whether there was any; if not, since another transaction has deleted it, nothing is committed.

    The row stays, in the state ``deleted``. The commit comes before the deletion of the files, so that a crash between
    the two leaves orphaned files and never an item without its files.
    """
    keys = records.empty_item(session, item.id)
    if keys is None:
        return False
    session.commit()
    delete_files(storage, keys)
    return True


def delete_files(storage: Storage, keys: Iterable[str]) -> None:
    """Delete files that no row names any more; one that can't be deleted is left for the sweeper."""
    keys = list(keys)
    try:
        storage.delete_all(keys)
    except Exception as error:
        log.warning("files could not be deleted at once", files=len(keys), error=str(error))
    else:
        return
    for key in keys:
        try:
            storage.delete(key)
        except Exception as error:  # an orphaned file is harmless
            log.warning("a file could not be deleted", key=key, error=str(error))
