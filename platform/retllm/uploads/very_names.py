"""The names that sidecars have if the pictures of their very names have a code."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.uploads import UploadFile
from retllm.media import records
from retllm.media.names import base_name, codes
from retllm.media.sheets.references import stem


def coded_names(session: Session, collection_id: UUID, files: Sequence[UploadFile]) -> dict[UUID, tuple[str, ...]]:
    """Return the names with a code of those files for which the collection has, or rejected, a picture with it."""
    found = {file.id: codes(file.name, file.raw_end) for file in files if file.raw_end is not None}
    stems = {base_name(path) for each in found.values() for path in each}
    if not stems:
        return {}
    pictures = records.pictures_with_stems(session, collection_id, stems)
    wholes = records.wholes_with_stems(session, collection_id, stems)
    refused = records.rejected_with_stems(session, collection_id, stems)
    taken = {stem(name) for name, *_ in (*pictures, *wholes, *refused)}
    return {key: tuple(name for path, name in each.items() if base_name(path) in taken) for key, each in found.items()}
