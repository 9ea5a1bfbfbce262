"""Deletes collections as a request and a dispatcher do, one after the other."""

from __future__ import annotations

from uuid import UUID

from retllm.db.session import Sessions, run_transaction
from retllm.media import records
from retllm.media.storage import Storage
from retllm.uploads.removal import remove_deleted


def delete_collection(sessions: Sessions, storage: Storage, collection_id: UUID) -> None:
    """Delete a collection and remove what is in it."""
    run_transaction(sessions, lambda session: records.delete_collection(session, collection_id))
    remove_deleted(sessions, storage)
