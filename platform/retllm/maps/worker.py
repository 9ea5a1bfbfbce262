"""Makes the map of a collection: reads the vectors, has them laid out, and replaces the earlier map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from retllm.db.jobs import Job
from retllm.db.many import one_of
from retllm.db.maps import SIDE
from retllm.db.plans import joined
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Embedding, EmbeddingModel, Item
from retllm.errors import Conflict
from retllm.indexing.indexed import current_model, is_ready
from retllm.maps import process
from retllm.maps.layout import fitted
from retllm.maps.replacing import Placed, replace_map
from retllm.queue.claim import complete
from retllm.queue.routing import Notification
from retllm.queue.worker import LastStep, LeasedUnit, WorkerContext

_AT_ONCE = 2_000
_KEY_BYTES = 16
_SEED = 7

Keys = NDArray[np.uint8]
"""Keys of items, one a row of 16 bytes: a million take 16 MB."""


@dataclass(frozen=True)
class _Vectors:
    """Reads the vectors of items, some at a time, into a file."""

    sessions: Sessions
    model: EmbeddingModel
    check: Callable[[], None]
    _written: list[Keys] = field(default_factory=list)

    def write(self, keys: Keys, file: BinaryIO) -> Keys:
        """Write the vectors of these items in their order; return those that still have one."""
        for start in range(0, len(keys), _AT_ONCE):
            self.check()
            self._write_some([UUID(bytes=key.tobytes()) for key in keys[start : start + _AT_ONCE]], file)
        return np.concatenate(self._written) if self._written else keys[:0]

    def _write_some(self, keys: Sequence[UUID], file: BinaryIO) -> None:
        of_model = Embedding.model_id == self.model.id, one_of(Embedding.item_id, keys)
        with transaction(self.sessions) as session:
            found = session.execute(sa.select(Embedding.item_id, Embedding.vector).where(*of_model))
            vectors: dict[UUID, Any] = dict(iter(found))
        there = [key for key in keys if key in vectors]
        for key in there:
            file.write(np.asarray(vectors[key], dtype=np.float32).tobytes())
        self._written.append(_packed(there))


def map_unit(context: WorkerContext, held: LeasedUnit) -> LastStep:
    """Make the map; return the step that stores it.

    Raises:
        StaleClaim, JobCancelled: while it is made; StaleClaim also by the last step.
        Conflict: no item is indexed any more.
        StackError: UMAP is not installed, or failed.
    """
    process.require()
    with transaction(context.sessions) as session:
        job = session.get_one(Job, held.claim.job_id)
        model = current_model(session, job.params["embedder"])
        keys = _with_vector(session, job.one_collection, model) if model else _packed([])
    if model is None or not len(keys):
        raise Conflict("No item of the collection is indexed any more: a map is made of the vectors of indexed items.")
    # the first ones are a sample of the map, for whoever reads a part of it and for the layout
    shuffled = keys[np.random.default_rng(_SEED).permutation(len(keys))]
    with TemporaryDirectory(prefix="retllm-map-") as folder:
        path = Path(folder) / "vectors"
        with path.open("wb") as file:
            written = _Vectors(context.sessions, model, held.lease.check).write(shuffled, file)
        places = fitted(process.laid_out(path, model.dimension, held.lease.check), SIDE)
    placed = Placed(model.id, UUID(bytes=keys[-1].tobytes()), written, places)

    def write(session: Session, job: Job) -> list[Notification]:
        replace_map(session, job, placed)
        return []

    return partial(complete, context.sessions, held.claim, write)


def _with_vector(session: Session, collection_id: UUID, model: EmbeddingModel) -> Keys:
    """Return the keys of the items with a vector, in their order."""
    own = Embedding.collection_id == collection_id, Embedding.model_id == model.id
    found = sa.select(Item.id).join(Embedding, Embedding.item_id == Item.id).where(*own, is_ready())
    rows = joined(session, found.where(Item.collection_id == collection_id).order_by(Item.id))
    return _packed([row.id for row in rows])


def _packed(keys: Sequence[UUID]) -> Keys:
    return np.frombuffer(b"".join(key.bytes for key in keys), dtype=np.uint8).reshape(-1, _KEY_BYTES)
