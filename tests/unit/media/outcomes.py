"""Adds files and reads the outcomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from tests.factories import make_embedding
from tests.unit.uploading import add_files

from retllm.db.session import Sessions, transaction
from retllm.db.tables import Item
from retllm.db.vectors import register_model
from retllm.media.ingest import FileOutcome, IncomingFile, Ingest

Items = Callable[[], list[Item]]
Stored = Callable[[], list[str]]


def add_file(ingest: Ingest, name: str, stream: BinaryIO) -> list[FileOutcome]:
    return add_files(ingest, [IncomingFile(name, stream)])


def statuses(outcomes: list[FileOutcome]) -> list[tuple[str, str]]:
    return [(outcome.name, outcome.status) for outcome in outcomes]


def reason(outcome: FileOutcome) -> str:
    assert outcome.status == "rejected"
    assert outcome.item_id is None
    assert outcome.error is not None
    return outcome.error.message


def add_embedding(sessions: Sessions, item: Item) -> None:
    with transaction(sessions) as session:
        model = register_model(session, name="test", revision="1", dimension=3, preprocessing_hash="x")
        session.add(make_embedding(item, model.id, (1.0, 1.0, 1.0)))
