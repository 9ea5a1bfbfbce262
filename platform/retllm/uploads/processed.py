"""What files of an upload became, and how it is written in the transaction that ends their unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import FileStatus
from retllm.db.uploads import UploadFile
from retllm.errors import DatabaseBusy
from retllm.media import records
from retllm.media.ingest import keys_of


@dataclass
class Processed:
    """What a file, or a part of one, became.

    Attributes:
        id: the key of its row, and of its item if it is new.
        columns: what is known of its row before the transaction.
        item: the values of a new item; None if its content is known, or if it is no picture.
        source: of a file with ``parts``, the values of the row that keeps it whole.
        outcome: set by :func:`write`: the columns that depend on what the collection has.
        unused: set by :func:`write`: storage keys of files that no row names.
    """

    id: UUID
    columns: dict[str, Any] = field(default_factory=dict)
    item: dict[str, Any] | None = None
    source: dict[str, Any] | None = None
    parts: list[Processed] = field(default_factory=list)
    outcome: dict[str, Any] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


def write(session: Session, collection_id: UUID, job_id: UUID, processed: Sequence[Processed]) -> None:
    """Insert the new items, whole files and rows of parts, and write what became of each file.

    Raises:
        DatabaseBusy: a duplicate was deleted at the same time.
    """
    everything = list(_with_parts(processed))
    for done in everything:
        done.unused = []
    _name_sources(session, collection_id, processed)
    rows = [{**done.item, "collection_id": collection_id} for done in everything if done.item is not None]
    added = records.insert_items(session, rows) if rows else set()
    others = [done.columns["sha256"] for done in everything if _is_picture(done) and done.id not in added]
    existing = records.find_contents(session, collection_id, others)
    for done in everything:
        done.outcome = _outcome(done, added, existing) if _is_picture(done) else {}
    parts = [
        {"id": part.id, "job_id": job_id, "parent_id": done.id, **_PART, **part.columns, **part.outcome}
        for done in processed
        for part in done.parts
    ]
    if parts:
        # of a file that is read again, the parts that were refused
        session.execute(sa.delete(UploadFile).where(UploadFile.id.in_([part["id"] for part in parts])))
        session.execute(sa.insert(UploadFile), parts)
    for done in processed:
        if columns := done.columns | done.outcome:
            session.execute(sa.update(UploadFile).where(UploadFile.id == done.id).values(**columns))


# all rows of one INSERT have the same columns
_PART: dict[str, Any] = dict.fromkeys(
    ("content", "size_bytes", "sha256", "item_id", "kind", "error_code", "error", "remark")
)


def _with_parts(processed: Sequence[Processed]) -> Iterator[Processed]:
    for done in processed:
        yield done
        yield from done.parts


def _name_sources(session: Session, collection_id: UUID, processed: Sequence[Processed]) -> None:
    whole = [(done, done.source) for done in processed if done.source is not None]
    # sorted, so that two uploads of the same files can't deadlock
    for done, source in sorted(whole, key=lambda each: str(each[1]["content_sha256"])):
        source_id = records.name_source(session, {**source, "collection_id": collection_id})
        if source_id != source["id"]:
            done.unused.append(source["file_key"])
        for part in done.parts:
            if part.item is not None:
                part.item["source_id"] = source_id


def _is_picture(done: Processed) -> bool:
    return done.columns.get("status") is None and done.columns.get("sha256") is not None


def _outcome(done: Processed, added: set[UUID], existing: dict[str, records.Known]) -> dict[str, Any]:
    if done.item is not None and done.id in added:
        return {"status": FileStatus.ADDED, "item_id": done.id, "kind": done.item["kind"]}
    item = existing.get(done.columns["sha256"])
    if item is None:
        raise DatabaseBusy("The same picture was deleted during the upload.")
    if done.item is not None:
        # another upload of the same picture was faster
        done.unused += keys_of(done.item)
    return {"status": FileStatus.DUPLICATE, "item_id": item.id, "kind": item.kind}
