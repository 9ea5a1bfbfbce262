"""The platform of ``retllm bench index``: uploads photographs to real processes and waits for their vectors."""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from retllm.db.enums import JobState
from retllm.db.session import Sessions, make_sessions, transaction
from retllm.db.tables import Embedding, Item, Job
from retllm.errors import StackError
from retllm.identity import accounts, tokens
from retllm.identity.actor import Actor
from retllm.settings import Settings
from retllm.stack import LocalStack

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
    """

    seconds: float
    upload_seconds: float
    again_seconds: float
    one_upload_seconds: float


def measure_flow(home: Path, settings: Settings, paths: Sequence[Path], notify: Callable[[str], None]) -> Flow:
    """Start a stack in ``home``, upload and index the photographs, and stop it.

    Raises:
        StackError: a process can't be started, or the photographs are not indexed in time.
    """
    fields = {name: getattr(settings, name) for name in settings.model_fields_set}
    # the worker of the embedder gets all cores
    alone = {"home": home, "database_url": None, "redis_url": None, "storage_url": None, "port": 0, "score_workers": 0}
    settings = Settings(**{**fields, **alone, "embedder": settings.embedder_name, "log_level": "WARNING"})
    with LocalStack(settings, _PROCESSES, notify=notify) as stack, ExitStack() as closing:
        side = _Side(stack, settings, closing)
        side.warm_up(paths[0])
        notify("uploads one by one")
        one = side.one_by_one(paths[:_ONE_BY_ONE])
        notify("upload and indexing")
        seconds, uploaded, collection = side.upload_and_index(paths)
        notify("indexing alone")
        return Flow(seconds, uploaded, side.index_again(collection, len(paths)), one)


class _Side:
    """The platform as a client sees it."""

    def __init__(self, stack: LocalStack, settings: Settings, closing: ExitStack) -> None:
        self._sessions: Sessions = make_sessions(stack.database_url)
        closing.callback(self._sessions.kw["bind"].dispose)
        with transaction(self._sessions) as session:
            user = accounts.create_user(session, "bench", uuid.uuid4().hex)
            session.flush()
            _, secret = tokens.issue(session, tokens.token_key(settings), Actor.unlimited(user), "bench")
        headers = {"Authorization": f"Bearer {secret}"}
        client = httpx.Client(base_url=f"{stack.url}/api/v1", headers=headers, timeout=600, trust_env=False)
        self._client = closing.enter_context(client)

    def warm_up(self, path: Path) -> None:
        """Load the model, and start the decoders of web server and worker."""
        collection = self._collection()
        self._upload(collection, [path], index=True)
        self._await_vectors(collection, 1)

    def one_by_one(self, paths: Sequence[Path]) -> float:
        """Return the median seconds of a request that uploads one photograph."""
        collection, found = self._collection(), []
        for path in paths:
            began = time.perf_counter()
            self._upload(collection, [path], index=False)
            found.append(time.perf_counter() - began)
        return statistics.median(found)

    def upload_and_index(self, paths: Sequence[Path]) -> tuple[float, float, str]:
        """Return the seconds until the last vector and until the last answer, and the collection."""
        collection = self._collection()
        parts = [paths[at : at + _FILES_PER_REQUEST] for at in range(0, len(paths), _FILES_PER_REQUEST)]
        began = time.time()
        upload_id = self._call("POST", f"/collections/{collection}/uploads", json={"index": True})["id"]
        for part in parts:
            self._send(f"/uploads/{upload_id}/files", part)
        uploaded = time.time() - began
        self._call("POST", f"/uploads/{upload_id}/close")
        return self._await_vectors(collection, len(paths)) - began, uploaded, collection

    def index_again(self, collection: str, count: int) -> float:
        """Delete the vectors, index the collection again, and return the seconds."""
        with transaction(self._sessions) as session:
            session.execute(sa.delete(Embedding).where(Embedding.collection_id == uuid.UUID(collection)))
        began = time.time()
        self._call("POST", f"/collections/{collection}/index", json={})
        return self._await_vectors(collection, count) - began

    def _collection(self) -> str:
        return str(self._call("POST", "/collections", json={"name": uuid.uuid4().hex})["id"])

    def _upload(self, collection: str, paths: Sequence[Path], *, index: bool) -> None:
        """Upload files in one request, and wait for their outcomes."""
        query = {"index": "true" if index else "false", "wait": "60"}
        answer = self._send(f"/collections/{collection}/items", paths, params=query)
        refused = [outcome for outcome in answer["outcomes"] if outcome["status"] == "rejected"]
        if refused:
            raise StackError(f"A photograph was rejected: {refused[0]}")

    def _send(self, path: str, photographs: Sequence[Path], **options: Any) -> Any:
        with ExitStack() as stack:
            files = [("file", (one.name, stack.enter_context(one.open("rb")), "image/jpeg")) for one in photographs]
            return self._call("POST", path, files=files, **options)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        answer = self._client.request(method, path, **options)
        if answer.is_error:
            raise StackError(f"The server answered {answer.status_code}: {answer.text[:200]}")
        return answer.json()

    def _await_vectors(self, collection: str, count: int) -> float:
        """Wait until every item has a vector and every job is over; return the time of the last vector.

        It is the time at which the database stored it, by its clock, which is this machine's.
        """
        key = uuid.UUID(collection)
        vectors = (
            sa.select(sa.func.count(), sa.func.max(Embedding.created_at))
            .join(Item, Item.id == Embedding.item_id)
            .where(Embedding.collection_id == key)
        )
        states = sa.select(Job.state).where(Job.collection_id == key)
        deadline = time.monotonic() + _TIMEOUT_SECONDS + count * _SECONDS_PER_PICTURE
        while time.monotonic() < deadline:
            with self._sessions() as session:
                stored, last = session.execute(vectors).one()
                ended = {JobState(state) for state in session.scalars(states)}
            if stored == count and ended == {JobState.SUCCEEDED}:
                return float(last.timestamp())
            if ended & {JobState.FAILED, JobState.PARTIAL}:
                raise StackError("An index job failed; its worker's log has the reason.")
            time.sleep(0.05)
        raise StackError(f"{count} photographs were not indexed in time.")
