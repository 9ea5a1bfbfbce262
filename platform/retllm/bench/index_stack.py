"""The platform of ``retllm bench index``: uploads photographs to real processes and waits for their vectors."""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from retllm.bench.client import Client, running
from retllm.db.session import transaction
from retllm.db.tables import Embedding
from retllm.errors import StackError
from retllm.settings import Settings

_PROCESSES = frozenset({"postgres", "redis", "migrate", "web", "dispatch", "media", "embed"})
_TIMEOUT_SECONDS = 120.0
_SECONDS_PER_PICTURE = 10.0
_FILES_PER_REQUEST = 8
_ONE_BY_ONE = 5


@dataclass(frozen=True, slots=True)
class Flow:
    """What was measured of the platform, in seconds.

    Attributes:
        seconds: from the first byte of the first upload until the last vector was stored.
        upload_seconds: from the first byte of the first upload until the last answer; the files are received then, but
            not yet processed.
        again_seconds: an index job of the same items alone, from its submission until the last vector was stored.
        one_upload_seconds: median of a request that uploads one photograph and waits for its outcome, one after the
            other, without indexing.
        processor_seconds: processor time that each process of the stack, and the client, used within ``seconds``.
    """

    seconds: float
    upload_seconds: float
    again_seconds: float
    one_upload_seconds: float
    processor_seconds: dict[str, float]


def measure_flow(home: Path, settings: Settings, paths: Sequence[Path], notify: Callable[[str], None]) -> Flow:
    """Start a stack in ``home``, upload and index the photographs, and stop it.

    Raises:
        StackError: a process can't be started, or the photographs are not indexed in time.
    """
    # the worker of the embedder gets all cores
    with running(home, settings, _PROCESSES, notify, score_workers=0) as client:
        side = _Side(client)
        side.warm_up(paths[0])
        notify("uploads one by one")
        one = side.one_by_one(paths[:_ONE_BY_ONE])
        notify("upload and indexing")
        before = client.processor_seconds()
        seconds, uploaded, collection = side.upload_and_index(paths)
        used = {name: spent - before.get(name, 0) for name, spent in client.processor_seconds().items()}
        notify("indexing alone")
        return Flow(seconds, uploaded, side.index_again(collection, len(paths)), one, used)


class _Side:
    """The measurements of one stack."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def warm_up(self, path: Path) -> None:
        """Load the model, and start the decoders of web server and worker."""
        collection = self._client.collection()
        self._client.upload(collection, [path], index=True)
        self._await_vectors(collection, 1)

    def one_by_one(self, paths: Sequence[Path]) -> float:
        """Return the median seconds of a request that uploads one photograph."""
        collection, found = self._client.collection(), []
        for path in paths:
            began = time.perf_counter()
            self._client.upload(collection, [path], index=False)
            found.append(time.perf_counter() - began)
        return statistics.median(found)

    def upload_and_index(self, paths: Sequence[Path]) -> tuple[float, float, str]:
        """Return the seconds until the last vector and until the last answer, and the collection."""
        collection = self._client.collection()
        parts = [paths[at : at + _FILES_PER_REQUEST] for at in range(0, len(paths), _FILES_PER_REQUEST)]
        began = time.time()
        upload_id = self._client.call("POST", f"/collections/{collection}/uploads", json={"index": True})["id"]
        for part in parts:
            self._client.send(f"/uploads/{upload_id}/files", part)
        uploaded = time.time() - began
        self._client.call("POST", f"/uploads/{upload_id}/close")
        return self._await_vectors(collection, len(paths)) - began, uploaded, collection

    def index_again(self, collection: str, count: int) -> float:
        """Delete the vectors, index the collection again, and return the seconds."""
        with transaction(self._client.sessions) as session:
            session.execute(sa.delete(Embedding).where(Embedding.collection_id == uuid.UUID(collection)))
        began = time.time()
        self._client.call("POST", f"/collections/{collection}/index", json={})
        return self._await_vectors(collection, count) - began

    def _await_vectors(self, collection: str, count: int) -> float:
        """Wait until every job is over; return the time of the last vector.

        It is the time at which the database stored it, by its clock, which is this machine's.
        """
        self._client.await_jobs(collection, _TIMEOUT_SECONDS + count * _SECONDS_PER_PICTURE)
        vectors = sa.select(sa.func.count(), sa.func.max(Embedding.created_at)).where(
            Embedding.collection_id == uuid.UUID(collection)
        )
        with self._client.sessions() as session:
            stored, last = session.execute(vectors).one()
        if stored != count:
            raise StackError(f"{stored} of {count} photographs have a vector.")
        return float(last.timestamp())
