"""Adds files and reads the outcomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from retllm.db.session import Sessions, transaction
from retllm.db.tables import Embedding, Item, new_id
from retllm.db.vectors import register_model
from retllm.media.batch import add_files
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
        session.add(
            Embedding(
                token=new_id(),
                item_id=item.id,
                model_id=model.id,
                collection_id=item.collection_id,
                item_version=item.version,
                image_weight=1.0,
                vector=np.ones(3, np.float32),
            )
        )
